/* Sleeping and waking: a publisher that waits for room, a subscriber that waits for messages.
 *
 * Code: SubscriberPort::Take, PrepareToSleep, StandDown, RingPublisher; PublisherPort::RingWaiters,
 *   WaitForRoom, SleepUntilRoom; ChannelRegistry::RingAll.
 * Processes: a publisher of MESSAGES messages into a queue of CAPACITY, which may stop calling
 *   (IDLE: after its first message); a subscriber; each may die anywhere; the channel may be deleted.
 * Memory: x86-TSO: the stores of tail and cursor wait in a buffer of one, and the ringer's look at the
 *   sleeper's flag may come before them. The first sleep ends by itself, and a store is out of its
 *   buffer by then: that is the assumption of the code (kFirstSlice).
 * Abstracted: what a publisher asks for is one free cell; the looks between flag and sleep are one.
 * Property: nobody sleeps for ever: a sleeper whose message, room, peer's end or deletion is there
 *   would be a state in which nothing moves.
 */
#ifndef CAPACITY
#define CAPACITY 1
#endif
#ifndef MESSAGES
#define MESSAGES 2
#endif
byte tail, cursor;
bit tail_waits, cursor_waits; /* store buffers */
byte next_tail, next_cursor;
bit waiters, publisher_waits;
byte bell, publisher_bell;
bit asleep, publisher_asleep; /* in the kernel */
bit lane_closed, subscriber_closed, deleted;
bit kill_publisher, kill_subscriber, publisher_dead, subscriber_dead, published, taken;
bit told_subscriber, told_publisher;

#define DRAIN_TAIL if :: tail_waits -> tail = next_tail; tail_waits = 0; next_tail = 0 :: else fi
#define DRAIN_CURSOR if :: cursor_waits -> cursor = next_cursor; cursor_waits = 0; next_cursor = 0 :: else fi
#define ROOM (t - cursor < CAPACITY)
#define NEWS (h < tail || lane_closed || deleted)

inline sleep_until_room() {
  atomic { DRAIN_TAIL; publisher_bell++; value = publisher_bell }; // STEP room_sleep.bell
  publisher_waits = 1; // STEP room_sleep.flag
#ifndef BUG_NO_FIRST_SLICE
  if
  :: !ROOM && !deleted && !subscriber_closed -> // STEP room_sleep.look
     atomic { if :: publisher_bell == value -> publisher_asleep = 1 :: else fi }; // STEP room_sleep.slice
     atomic { !publisher_asleep || !cursor_waits -> publisher_asleep = 0 } // MODEL
  :: else
  fi;
#endif
  if
  :: !ROOM && !deleted && !subscriber_closed -> // STEP room_sleep.again
     atomic { if :: publisher_bell == value -> publisher_asleep = 1 :: else fi }; // STEP room_sleep.sleep
     !publisher_asleep
  :: else
  fi;
  publisher_waits = 0; // STEP room_sleep.clear
  value = 0
}

proctype Publisher() {
  byte t, value, last_rung;
  bit rung;
  {
    do
    :: t < MESSAGES ->
#ifdef IDLE
       if :: t == 1 -> told_publisher; t = MESSAGES - 1 :: else fi;
#endif
       do
       :: deleted || subscriber_closed -> goto out
       :: !deleted && !subscriber_closed && ROOM -> break
       :: !deleted && !subscriber_closed && !ROOM -> sleep_until_room()
       od;
       atomic { DRAIN_TAIL; t++; next_tail = t; tail_waits = 1 }; // STEP publish.tail
#ifndef BUG_NO_RING
       if
       :: waiters -> // STEP ring.waiters
          value = bell; // STEP ring.bell
          if
          :: rung && value == last_rung
          :: else -> atomic { DRAIN_TAIL; bell++; asleep = 0; last_rung = bell; rung = 1 } // STEP ring.wake
          fi;
          value = 0
       :: else
       fi
#endif
    :: else -> break
    od;
out:
    published = 1 // MODEL
  } unless { kill_publisher && !published };
  atomic { DRAIN_TAIL; t = 0; value = 0; last_rung = 0; rung = 0; publisher_asleep = 0; publisher_dead = !published } // MODEL
}

inline take() {
  atomic { DRAIN_CURSOR; h++; next_cursor = h; cursor_waits = 1 }; // STEP take.cursor
  if
  :: publisher_waits -> // STEP ring_publisher.waits
     value = publisher_bell; // STEP ring_publisher.bell
     if
     :: rung && value == last_rung
     :: else -> atomic { DRAIN_CURSOR; publisher_bell++; publisher_asleep = 0; last_rung = publisher_bell; rung = 1 } // STEP ring_publisher.wake
     fi;
     value = 0
  :: else
  fi
}

inline sleep_until_message() {
#ifdef BUG_BELL_NOT_CHANGED
  value = bell;
#else
  atomic { DRAIN_CURSOR; bell++; value = bell }; // STEP sleep.bell
#endif
  atomic { DRAIN_CURSOR; waiters = 1 }; // STEP sleep.flag
#ifndef BUG_NO_FIRST_SLICE
  if
  :: !NEWS -> // STEP sleep.look
     atomic { if :: bell == value -> asleep = 1 :: else fi }; // STEP sleep.slice
     atomic { !asleep || !tail_waits -> asleep = 0 } // MODEL
  :: else
  fi;
#endif
  if
  :: !NEWS -> // STEP sleep.again
     atomic { if :: bell == value -> asleep = 1 :: else fi }; // STEP sleep.sleep
     !asleep
  :: else
  fi;
  waiters = 0; // STEP sleep.clear
  value = 0
}

proctype Subscriber() {
  byte h, value, last_rung;
  bit rung;
  {
    do
    :: h < tail -> take()
    :: h >= tail && (lane_closed || deleted) -> if :: h >= tail -> break :: else fi
    :: h >= tail && !lane_closed && !deleted -> sleep_until_message()
    od;
    taken = 1 // MODEL
  } unless { kill_subscriber && !taken };
  atomic { DRAIN_CURSOR; h = 0; value = 0; last_rung = 0; rung = 0; asleep = 0; subscriber_dead = !taken } // MODEL
}

proctype StoreBuffers() {
end:
  do
  :: atomic { tail_waits -> DRAIN_TAIL } // MODEL
  :: atomic { cursor_waits -> DRAIN_CURSOR } // MODEL
  od
}

proctype Killer() {
  if :: kill_publisher = 1 :: skip fi; // MODEL
  if :: kill_subscriber = 1 :: skip fi // MODEL
}

inline ring_subscriber() { atomic { bell++; asleep = 0 } } // STEP ring_all.subscriber
inline ring_publisher() { atomic { publisher_bell++; publisher_asleep = 0 } } // STEP ring_all.publisher

proctype Daemon() {
  bit asked;
  do
  :: (publisher_dead || published) && !told_subscriber ->
     lane_closed = 1; // STEP lane.state
#ifndef BUG_NO_RING_AT_DEATH
     ring_subscriber();
#endif
     told_subscriber = 1 // MODEL
  :: (subscriber_dead || taken) && !told_publisher ->
     subscriber_closed = 1; // STEP close_subscriber.entry
     ring_publisher();
     told_publisher = 1 // MODEL
  :: !asked ->
     asked = 1;
     if
     :: deleted = 1; // STEP delete.state
#ifndef BUG_NO_RING_AT_DELETION
        ring_subscriber(); ring_publisher()
#endif
#ifndef IDLE
     :: skip
#endif
     fi
  :: told_subscriber && told_publisher && asked -> break
  od;
  assert(!asleep && !publisher_asleep)
}

init { atomic { run Publisher(); run Subscriber(); run StoreBuffers(); run Killer(); run Daemon() } }
