/* The daemon's part of lane.pml: recovery.cc. */
#define GONE(i) (dead[i] && !swept[i])
#define ANY_GONE (GONE(1) || GONE(2) || GONE(3) || GONE(4))

inline close_subscriber(k) {
  entry_epoch[k] = 0; // STEP close_subscriber.entry
  subscriber_stamp++ // STEP close_subscriber.stamp
}

/* Recovery::Orphan: the message in `m` from subscriber k, in the name of `label` */
inline orphan() {
#ifdef MOVED
  atomic { // STEP free.word
    if
    :: record[m.chunk].kind == LOANED && record[m.chunk].owner == label && record[m.chunk].stamp == m.tag -> TO_FREE(m.chunk)
    :: else
    fi
  }
#else
  same = record[m.chunk].gen == m.tag; // STEP orphan.generation
  holder = record[m.chunk].slot[k]; // STEP orphan.slot
#ifdef BUG_ORPHAN_WITHOUT_GENERATION
  same = holder == label && label != 0;
#else
  same = same && holder == label && label != 0 && record[m.chunk].gen == m.tag; // STEP orphan.again
#endif
  if
  :: same -> atomic { if :: record[m.chunk].slot[k] == label -> record[m.chunk].slot[k] = 0 :: else fi } // STEP orphan.clear
  :: else
  fi;
  CLOSE_IF_UNHELD(m.chunk);
  same = 0; holder = 0
#endif
}

/* Recovery::Relabel of the message in `m` */
inline relabel() {
#ifdef MOVED
  atomic { // STEP relabel.word
    if
    :: record[m.chunk].kind == LOANED && record[m.chunk].owner == label && record[m.chunk].stamp == m.tag ->
       record[m.chunk].owner = entry_session[k]; record[m.chunk].stamp++
    :: else
    fi
  }
#else
  atomic { if :: record[m.chunk].slot[k] == label -> record[m.chunk].slot[k] = entry_session[k] :: else fi } // STEP relabel.slot
#endif
}

inline message_at() {
  atomic {
    if
    :: given -> m.chunk = CURSOR(l, k).kept.chunk; m.tag = CURSOR(l, k).kept.tag
    :: else -> m.chunk = CELL(l, at).chunk; m.tag = CELL(l, at).tag
    fi
  }
}

/* Recovery::Deliver of lane l: of what session `label` sent to those who live */
inline deliver() {
  k = 0;
  do
  :: k < SUBSCRIBERS ->
     atomic { at = CURSOR(l, k).position; S = CURSOR(l, k).S; same = entry_session[k] != 0 && !gone[entry_session[k]] && CURSOR(l, k).epoch == entry_session[k] }; // STEP deliver.cursor
     if
     :: same ->
        end = tail[l]; // STEP deliver.tail
        given = CURSOR(l, k).given_epoch == entry_session[k] && CURSOR(l, k).given_position != BY_CURSOR; // STEP given_up.look
        if
        :: given && CURSOR(l, k).given_position == at -> end = at + 1
        :: given && CURSOR(l, k).given_position != at -> end = at
        :: else
        fi;
        atomic { won = CURSOR(l, k).taking.valid && CURSOR(l, k).taking.flag != S; m.chunk = CURSOR(l, k).taking.chunk; m.tag = CURSOR(l, k).taking.tag }; // STEP deliver.claim
#ifndef BUG_DELIVER_WITHOUT_WON_CLAIMS
        if :: won -> relabel() :: else fi;
#endif
        do
        :: at < end -> message_at(); relabel(); at++ // STEP deliver.cell
        :: else -> break
        od
     :: else
     fi;
     k++
  :: else -> break
  od;
  k = 0; at = 0; end = 0; S = 0; same = 0; given = 0; won = 0; m.chunk = 0; m.tag = 0
}

/* Recovery::Drain of lane l for subscriber k */
inline drain(living) {
  label = lane_session[l];
  do
  :: label != 0 ->
     atomic { at = CURSOR(l, k).position; S = CURSOR(l, k).S; D = CURSOR(l, k).D; e = CURSOR(l, k).epoch }; // STEP drain.cursor
     if :: e == 0 || e == living -> break :: else fi;
     if :: at >= tail[l] -> break :: else fi; // STEP drain.tail
     atomic { m.chunk = CELL(l, at).chunk; m.tag = CELL(l, at).tag }; // STEP drain.cell
#ifndef BUG_DRAIN_WITHOUT_CLAIM
     atomic { // STEP drain.claim
       CURSOR(l, k).draining.valid = 1; CURSOR(l, k).draining.chunk = m.chunk; CURSOR(l, k).draining.tag = m.tag; CURSOR(l, k).draining.flag = D
     };
#endif
     atomic { // STEP drain.word
       won = 0;
       if
       :: CURSOR(l, k).position == at && CURSOR(l, k).S == S && CURSOR(l, k).D == D && CURSOR(l, k).epoch == e ->
          CURSOR(l, k).position = at + 1; CURSOR(l, k).D = !D; won = 1
       :: else
       fi
     };
     if :: won -> orphan() :: else fi;
     NO_CLAIM(CURSOR(l, k).draining); // STEP drain.clear
     m.chunk = 0; m.tag = 0; won = 0
  :: else -> break
  od;
  label = 0; at = 0; S = 0; D = 0; e = 0
}

/* Recovery::LetGo of lane l for subscriber k, who has left or died */
inline let_go() {
  if
  :: CURSOR(l, k).stopped == entry_session[k] -> // STEP let_go.stopped
     atomic { // STEP given_up.claim
       if
       :: CURSOR(l, k).given_epoch != entry_session[k] -> CURSOR(l, k).given_epoch = entry_session[k]; CURSOR(l, k).given_position = BY_CURSOR
       :: else
       fi
     }
  :: else
  fi;
  given = CURSOR(l, k).given_epoch == entry_session[k] && CURSOR(l, k).given_position != BY_CURSOR; // STEP given_up.look
  label = lane_session[l];
  atomic { won = CURSOR(l, k).taking.valid; S = CURSOR(l, k).taking.flag; m.chunk = CURSOR(l, k).taking.chunk; m.tag = CURSOR(l, k).taking.tag }; // STEP finish_take.claim
  if
  :: won ->
     won = S != CURSOR(l, k).S; // STEP finish_take.cursor
     if :: won -> orphan() :: else fi;
     NO_CLAIM(CURSOR(l, k).taking) // STEP finish_take.clear
  :: else
  fi;
  m.chunk = 0; m.tag = 0; won = 0; S = 0;
  if
  :: !given && lane_session[l] != 0 -> drain(0)
  :: else ->
     atomic { at = CURSOR(l, k).position; same = CURSOR(l, k).epoch == entry_session[k] }; // STEP let_go.cursor
     if
     :: same ->
        end = tail[l]; // STEP let_go.tail
        if
        :: given && CURSOR(l, k).given_position == at -> end = at + 1
        :: given && CURSOR(l, k).given_position != at -> end = at
        :: else
        fi;
        if :: lane_session[l] == 0 -> label = entry_session[k] :: else fi;
        do
        :: at < end ->
           message_at(); // STEP let_go.cell
#ifdef MOVED
           if :: lane_session[l] == 0 -> m.tag++ :: else fi; /* delivered: the next stamp */
#endif
           orphan(); at++
        :: else -> break
        od;
        CURSOR(l, k).epoch = 0 // STEP let_go.end
     :: else
     fi
  fi;
  label = 0; at = 0; end = 0; same = 0; given = 0; m.chunk = 0; m.tag = 0
}

inline let_go_of_all() {
  l = 0;
  do
  :: l < PUBLISHERS -> if :: lane_session[l] == 0 || !gone[lane_session[l]] -> let_go() :: else fi; l++
  :: else -> break
  od;
  l = 0;
  entry_session[k] = 0 // STEP free_subscriber.session
}

inline sweep() {
  c = 0;
  do
  :: c < CHUNKS ->
#ifndef MOVED
     k = 0;
     do
     :: k < SUBSCRIBERS -> atomic { if :: record[c].slot[k] != 0 && gone[record[c].slot[k]] -> record[c].slot[k] = 0 :: else fi; k++ } // STEP sweep.slot
     :: else -> break
     od;
     k = 0;
     CLOSE_IF_UNHELD(c);
#endif
     atomic { if :: record[c].kind == LOANED && gone[record[c].owner] -> TO_FREE(c) :: else fi; c++ } // STEP free.word
  :: else -> break
  od;
  c = 0
}

inline recover() {
  atomic { k = 0; do :: k < SESSIONS -> gone[k] = GONE(k); k++ :: else -> break od; k = 0 };
  do
  :: k < SUBSCRIBERS -> if :: entry_session[k] != 0 && gone[entry_session[k]] -> close_subscriber(k) :: else fi; k++
  :: else -> break
  od;
  l = 0;
  do
  :: l < PUBLISHERS ->
     label = lane_session[l];
#ifndef BUG_NO_DELIVER
     if :: label != 0 && gone[label] -> deliver() :: else fi;
#endif
     l++
  :: else -> break
  od;
  label = 0; l = 0; k = 0;
  do
  :: k < SUBSCRIBERS -> if :: entry_session[k] != 0 && gone[entry_session[k]] -> let_go_of_all() :: else fi; k++
  :: else -> break
  od;
  sweep();
  l = 0;
  do
  :: l < PUBLISHERS -> if :: gone[lane_session[l]] -> lane_session[l] = 0 :: else fi; l++ // STEP recover.lane_session
  :: else -> break
  od;
  l = 0;
  atomic { // MODEL
    k = 0;
    do :: k < SESSIONS -> if :: gone[k] -> swept[k] = 1; gone[k] = 0 :: else fi; k++ :: else -> break od;
    k = 0
  }
}

/* ChannelRegistry::StopTaking */
inline stop_taking() {
#ifdef BUG_DRAIN_UNDER_A_LIVING_SUBSCRIBER
  close_subscriber(k); let_go_of_all()
#else
  do
  :: l < PUBLISHERS -> CURSOR(l, k).stopped = entry_session[k]; l++ // STEP stop.cursor
  :: else -> break
  od;
  l = 0;
  close_subscriber(k)
#endif
}

/* Recovery::FinishClaims, and what ChannelRegistry::Announce says again */
inline finish_claims() {
  do
  :: l < PUBLISHERS ->
     k = 0;
     do
     :: k < SUBSCRIBERS ->
        atomic { won = CURSOR(l, k).draining.valid; D = CURSOR(l, k).draining.flag; m.chunk = CURSOR(l, k).draining.chunk; m.tag = CURSOR(l, k).draining.tag }; // STEP finish_claims.claim
        if
        :: won ->
           label = lane_session[l];
           won = D != CURSOR(l, k).D; // STEP finish_claims.cursor
           if :: won -> orphan() :: else fi;
           NO_CLAIM(CURSOR(l, k).draining) // STEP finish_claims.clear
        :: else
        fi;
        label = 0; won = 0; D = 0; m.chunk = 0; m.tag = 0;
        k++
     :: else -> break
     od;
     l++
  :: else -> break
  od;
  l = 0; k = 0;
  do
  :: k < SUBSCRIBERS ->
     if
     :: entry_session[k] != 0 && CURSOR(0, k).stopped == entry_session[k] -> stop_taking()
     :: entry_session[k] != 0 && CURSOR(0, k).stopped != entry_session[k] && entry_epoch[k] == 0 -> let_go_of_all()
     :: else
     fi;
     k++
  :: else -> break
  od;
  k = 0;
  subscriber_stamp++ // STEP announce.stamp
}

#define ZOMBIE(l, k) (lane_session[l] != 0 && CURSOR(l, k).epoch != 0 && CURSOR(l, k).epoch != entry_session[k] && CURSOR(l, k).position < tail[l])
#define DONE(i) (finished[i] || swept[i])
#define LEFT_OUT(k) (left[k] && entry_session[k] != 0)
#if PUBLISHERS > 1
#define PUBLISHED (ENDED(0) && ENDED(1))
#define ANY_ZOMBIE (ZOMBIE(0, 0) || ZOMBIE(1, 0))
#else
#define PUBLISHED ENDED(0)
#if SUBSCRIBERS > 1
#define ANY_ZOMBIE (ZOMBIE(0, 0) || ZOMBIE(0, 1))
#else
#define ANY_ZOMBIE ZOMBIE(0, 0)
#endif
#endif
#if SUBSCRIBERS > 1
#define TAKEN (DONE(3) && DONE(4))
#else
#define TAKEN DONE(3)
#endif

proctype Daemon() {
  byte k, l, c, at, end, e, label, holder;
  bit S, D, won, same, given, gone[SESSIONS];
  Cell m;
start:
  {
#if RESTARTS > 0
    if :: restarts > 0 -> finish_claims() :: else fi;
#endif
    do
    :: ANY_GONE -> recover()
    :: !ANY_GONE && ZOMBIE(0, 0) -> drain(entry_session[0]) // Recovery::Tick
#if SUBSCRIBERS > 1
    :: !ANY_GONE && ZOMBIE(0, 1) -> k = 1; drain(entry_session[1]); k = 0
#endif
#if PUBLISHERS > 1
    :: !ANY_GONE && ZOMBIE(1, 0) -> l = 1; drain(entry_session[0]); l = 0
#endif
    :: !ANY_GONE && LEFT_OUT(0) -> close_subscriber(0); let_go_of_all()
#ifdef STOP
    :: !ANY_GONE && !stop_done && entry_session[0] == 3 && !LEFT_OUT(0) -> stop_done = 1; stop_taking() // MODEL
#endif
#ifdef REJOIN
    :: !ANY_GONE && !rejoined && entry_session[0] == 0 -> // JoinAsSubscriber
       atomic { entry_session[0] = LATER; left[0] = 0 }; // STEP join.session
       atomic { entry_epoch[0] = LATER; rejoined = 1; run Subscriber(0, LATER) }; // STEP join.entry
       subscriber_stamp++ // STEP join.stamp
#endif
    :: PUBLISHED && TAKEN && (!rejoined || finished[LATER]) && !ANY_GONE && !LEFT_OUT(0) && !ANY_ZOMBIE && (another_done || swept[1]) -> break
    od;
    c = CHUNKS
  } unless { atomic { crash -> // MODEL
    crash = 0; k = 0; l = 0; c = 0; at = 0; end = 0; e = 0; label = 0; holder = 0; S = 0; D = 0; won = 0;
    same = 0; given = 0; m.chunk = 0; m.tag = 0;
    do :: k < SESSIONS -> gone[k] = 0; k++ :: else -> break od;
    k = 0
  } };
  if :: c < CHUNKS -> goto start :: else -> c = 0 fi;
  do
  :: c < CHUNKS -> assert(record[c].kind == FREE && !HELD(c)); c++
  :: else -> break
  od
}
