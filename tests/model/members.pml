/* Members of a channel: publishers and subscribers come and go, lanes are retired, the channel is deleted.
 *
 * Code: JoinAsPublisher, JoinAsSubscriber, LeavePublisher, StoreLaneState, RetireLanes, IsEmptied, Close
 *   and FreeClosed of channel_registry.cc; SubscriberPort::Idle, LookForNewLanes and RefreshLanes; PublisherPort::Refresh.
 * Processes: PUBLISHERS publishers one after the other, with at most MESSAGES messages each, in the one entry
 *   of the lane table and the one piece of memory there is; SUBSCRIBERS subscribers, the second of which
 *   joins at any time; the first may leave (LEAVE); the channel may be deleted (DELETE); the daemon dies
 *   RESTARTS times: then it knows only what the table says.
 * Abstracted: sequentially consistent memory; a lane never is full; messages are counted, not moved
 *   (lane.pml); who sleeps is rung (sleep.pml); what waits for those who left is drained in one step.
 * Property: nobody looks into the memory of a lane that is another lane's by now; a subscriber takes
 *   all that was published for it; in the end all memory is free.
 */
#ifndef PUBLISHERS
#define PUBLISHERS 2
#endif
#ifndef SUBSCRIBERS
#define SUBSCRIBERS 1
#endif
#ifndef MESSAGES
#define MESSAGES 1
#endif
#ifndef RESTARTS
#define RESTARTS 0
#endif
#define FREE 0
#define OPEN 1
#define CLOSED 2
#define RETIRED 4
#define NOTHING_KNOWN 0

byte state, lane_epoch;      /* LaneEntry */
byte lane_stamp = 1, told;   /* told: the stamp of the last change of the entry, the daemon's own */
bit deleted, freed;          /* ChannelHeader */
byte ack[SUBSCRIBERS];
bit open[SUBSCRIBERS];       /* SubscriberEntry */
byte memory;                 /* epoch of the lane whose memory it is; 0: free */
byte tail, position[SUBSCRIBERS];
bit served[SUBSCRIBERS];     /* the cursor's epoch is the subscriber's */
bit leaves;
byte lanes;                  /* that there were */
bit gone[SUBSCRIBERS], joined[SUBSCRIBERS];
bit crash;
byte restarts;

proctype Publisher(byte me) { /* me: the lane's epoch */
  byte n, k;
  do
  :: n < MESSAGES && !deleted ->
     n++;
     k = 0;
     do
     :: k < SUBSCRIBERS ->
        atomic { // STEP refresh.entry serve.cursor
          assert(memory == me);
          if :: open[k] && !served[k] -> served[k] = 1; position[k] = tail :: else fi
        };
        k++
     :: else -> break
     od;
     atomic { assert(memory == me); tail++ } // STEP publish.tail
  :: break
  od;
  n = 0; k = 0;
  leaves = 1 // MODEL
}

/* RefreshLanes with stamp `stamp`: the lane it knows then */
inline refresh_lanes() {
  atomic { seen = state; epoch = lane_epoch }; // STEP refresh_lanes.state
  if
  :: (seen == OPEN || seen == CLOSED) && finished != epoch ->
     assert(memory == epoch); // STEP refresh_lanes.tail
     known = epoch
  :: else -> known = 0
  fi;
  ack[k] = stamp; // STEP refresh_lanes.ack
  seen = 0; epoch = 0
}

inline take() {
  atomic { assert(memory == known); can = served[k] && position[k] < tail }; // STEP take.look take.tail
  if
  :: can -> atomic { assert(memory == known); position[k]++ } // STEP take.cursor
  :: else
  fi
}

/* Idle: what is there when there is nothing to take */
inline idle() {
  stamp = lane_stamp; // STEP idle.stamp
  was_deleted = deleted; // STEP idle.deleted
  refresh_lanes();
  if
  :: known != 0 ->
     ended = state != OPEN; // STEP idle.state
     atomic { assert(memory == known); can = served[k] && position[k] < tail }; // STEP idle.look
     if
     :: ended && !can ->
        atomic { assert(memory == known); served[k] = 0 }; // STEP idle.done
        finished = known; known = 0
     :: else
     fi
  :: else
  fi
}

proctype Subscriber(byte k) {
  byte stamp, seen, epoch, known, finished;
  bit can, ended, was_deleted;
  do
  :: known != 0 ->
     take();
     if :: !can -> idle() :: else fi
  :: known != 0 -> stamp = lane_stamp; refresh_lanes() /* LookForNewLanes */ // STEP new_lanes.stamp
  :: known == 0 -> idle()
  :: was_deleted && known == 0 -> break
#ifdef LEAVE
  :: k == 0 -> break
#endif
  :: known == 0 && finished == PUBLISHERS && lanes == PUBLISHERS -> break
  od;
  stamp = 0; seen = 0; epoch = 0; known = 0; finished = 0; can = 0; ended = 0; was_deleted = 0;
  gone[k] = 1 // MODEL
}

inline everybody_knows() { /* `all` */
  all = 1; k = 0;
  do
  :: k < SUBSCRIBERS -> if :: open[k] && ack[k] < told -> all = 0 :: else fi; k++ // STEP retire.ack
  :: else -> break
  od;
  k = 0
}

inline set_state(value) {
  state = value; // STEP lane.state
  lane_stamp++; // STEP lane.stamp
  told = lane_stamp // MODEL
}

#define WAITS(k) (open[k] && served[k] && position[k] < tail)

/* RetireLanes */
inline retire() {
  everybody_knows();
#ifdef BUG_NOBODY_IS_ASKED
  all = 1;
#endif
  if
  :: all && state == CLOSED ->
     atomic { // STEP retire.empty
       all = !(open[0] && served[0]);
       if :: SUBSCRIBERS > 1 && open[SUBSCRIBERS - 1] && served[SUBSCRIBERS - 1] -> all = 0 :: else fi
     };
#ifdef BUG_RETIRES_WHAT_IS_NOT_EMPTY
     all = 1;
#endif
     if
     :: all -> set_state(RETIRED)
#ifdef BUG_MEMORY_IS_FREE_AT_ONCE
        ; state = FREE; memory = 0; tail = 0
#endif
     :: else
     fi
  :: all && state == RETIRED ->
     state = FREE; // STEP retire.state
     assert(!WAITS(0) && !WAITS(SUBSCRIBERS - 1));
     atomic { memory = 0; tail = 0; served[0] = 0; served[SUBSCRIBERS - 1] = 0 } // STEP retire.memory
  :: else
  fi;
  all = 0
}

proctype Daemon() {
  byte k;
  bit all;
start:
  {
#if RESTARTS > 0
    if :: restarts > 0 -> lane_stamp++; told = lane_stamp; if :: state == FREE -> memory = 0 :: else fi :: else fi; // STEP announce.lane_stamp
#endif
    do
    :: state == FREE && memory == 0 && lanes < PUBLISHERS && !deleted -> // JoinAsPublisher
       atomic { memory = lanes + 1; tail = 0; leaves = 0 }; // STEP join_publisher.memory
       atomic { lane_epoch = lanes + 1 }; // STEP join_publisher.entry
       atomic { state = OPEN; lanes++; run Publisher(lane_epoch) }; // STEP lane.state
       lane_stamp++; // STEP lane.stamp
       told = lane_stamp // MODEL
    :: state == OPEN && leaves -> set_state(CLOSED)
    :: state == CLOSED || state == RETIRED -> retire()
    :: SUBSCRIBERS > 1 && !joined[1] && !deleted -> // JoinAsSubscriber
       ack[1] = NOTHING_KNOWN; // STEP join.ack
       atomic { open[1] = 1; joined[1] = 1; run Subscriber(1) } // STEP join.entry
    :: gone[0] && open[0] -> atomic { open[0] = 0; served[0] = 0 } // STEP close_subscriber.entry
    :: SUBSCRIBERS > 1 && gone[SUBSCRIBERS - 1] && open[SUBSCRIBERS - 1] -> atomic { open[SUBSCRIBERS - 1] = 0; served[SUBSCRIBERS - 1] = 0 } // STEP close_subscriber.entry
#ifdef DELETE
    :: !deleted ->
       deleted = 1; // STEP delete.state
       lane_stamp++ // STEP delete.lane_stamp
#endif
    :: state == FREE && memory == 0 && (lanes == PUBLISHERS || deleted) && !open[0] && (SUBSCRIBERS == 1 || (joined[SUBSCRIBERS - 1] && !open[SUBSCRIBERS - 1]) || (deleted && !joined[SUBSCRIBERS - 1])) ->
       freed = 1; break // STEP free_closed.state
    od
  } unless { atomic { crash -> crash = 0; k = 0; all = 0 } }; // MODEL
  if :: !freed -> goto start :: else fi;
  assert(memory == 0)
}

init {
  atomic { open[0] = 1; joined[0] = 1; run Subscriber(0); run Daemon() };
  if :: restarts < RESTARTS -> restarts++; crash = !freed :: skip fi
}
