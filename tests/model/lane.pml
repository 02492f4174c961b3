/* Lanes: messages from publishers to subscribers, and what a death, a leave and a stop leave of them.
 *
 * Code: shm/publisher_port.cc, subscriber_port.cc, recovery.cc, channel.h; StopTaking,
 *   CloseSubscriber and FreeSubscriber of channel_registry.cc.
 * Processes: PUBLISHERS lanes of CAPACITY cells with MESSAGES messages each, SUBSCRIBERS that read
 *   all lanes; KILLS sessions die anywhere; the daemon dies RESTARTS times anywhere.
 *   LOSSY: cursors drop, else the publisher waits. MOVED: the chunk changes hands, else it is shared
 *   by slots. ONE_SESSION: both publishers are one session's. ANOTHER_CHANNEL: its session shares a chunk
 *   elsewhere. LEAVE: the subscriber of index 0 may leave. STOP: the daemon takes it off. REJOIN: another has its index afterwards.
 * Abstracted: sequentially consistent memory; a look for holders with the close after it is one step
 *   (chunk.pml); a cursor and the tail are read at once; epochs are session ids; no sleeping
 *   (sleep.pml), no end of lanes (members.pml), no history (history.pml).
 * Property: a subscriber gets what was published at its position, in order and once, a waiting one
 *   without a gap; what it has taken stays its own; in the end every chunk is free and no slot is set.
 */
#ifndef PUBLISHERS
#define PUBLISHERS 1
#endif
#ifndef SUBSCRIBERS
#define SUBSCRIBERS 1
#endif
#ifndef CAPACITY
#define CAPACITY 1
#endif
#ifndef MESSAGES
#define MESSAGES 2
#endif
#ifndef CHUNKS
#define CHUNKS 2
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef RESTARTS
#define RESTARTS 0
#endif
#define FREE 0
#define LOANED 2
#define SHARED 3
#define BY_CURSOR 255 /* given up: the daemon goes by the cursor */
#ifdef ONE_SESSION
#define PUBLISHER_OF(l) 1
#else
#define PUBLISHER_OF(l) ((l) + 1)
#endif
#define SUBSCRIBER_AT(k) ((k) + 3)
#define LATER 5 /* session of who rejoins at index 0 */
#define SESSIONS 6

typedef Record { byte kind; byte owner; byte stamp; byte gen; byte slot[SUBSCRIBERS] };
typedef Cell { byte chunk; byte tag };
typedef Claim { bit valid; byte chunk; byte tag; bit flag };
typedef Cursor {
  byte position; byte epoch; bit S; bit D; /* one word */
  Claim taking; Claim draining;
  byte stopped;
  byte given_epoch; byte given_position; /* one word */
  Cell kept
};
Record record[CHUNKS];
Cell cell[PUBLISHERS * CAPACITY];
byte tail[PUBLISHERS];
Cursor cursor[PUBLISHERS * SUBSCRIBERS];
byte lane_session[PUBLISHERS];
byte entry_epoch[SUBSCRIBERS];   /* 0: closed */
byte entry_session[SUBSCRIBERS]; /* 0: the index is free */
byte subscriber_stamp;
bit left[SUBSCRIBERS];
bit dead[SESSIONS], swept[SESSIONS];
bit published[PUBLISHERS], finished[SESSIONS];
bit crash, stop_done, rejoined;
bit another_done;
byte kills, restarts;
Cell sent[PUBLISHERS * MESSAGES]; /* what was published at each position */

#define CELL(l, p) cell[(l) * CAPACITY + (p) % CAPACITY]
#define CURSOR(l, k) cursor[(l) * SUBSCRIBERS + (k)]
#if SUBSCRIBERS > 1
#define HELD(c) (record[c].slot[0] != 0 || record[c].slot[1] != 0)
#else
#define HELD(c) (record[c].slot[0] != 0)
#endif

#define TO_FREE(c) record[c].kind = FREE; record[c].owner = 0; record[c].stamp++
#define CLOSE_IF_UNHELD(c) atomic { if :: record[c].kind == SHARED && !HELD(c) -> TO_FREE(c) :: else fi } // STEP close.word
#define NO_CLAIM(claim) atomic { claim.valid = 0; claim.chunk = 0; claim.tag = 0; claim.flag = 0 }

/* PublisherPort::TakeBack of the message in `m` from subscriber k */
inline take_back() {
#ifdef MOVED
  atomic { // STEP take_back.moved
    if
    :: record[m.chunk].kind == LOANED && record[m.chunk].owner == me && record[m.chunk].stamp == m.tag ->
       if
       :: cached == 0 -> cached = m.chunk + 1 /* it may be sent again with the same stamp */
       :: else -> TO_FREE(m.chunk)
       fi
    :: else
    fi
  }
#else
  same = record[m.chunk].gen == m.tag; // STEP take_back.generation
  holder = record[m.chunk].slot[k]; // STEP take_back.slot
  same = same && holder == me;
  same = same && record[m.chunk].gen == m.tag; // STEP take_back.again
  if
  :: same -> atomic { assert(record[m.chunk].slot[k] == me && record[m.chunk].kind == SHARED); record[m.chunk].slot[k] = 0 } // STEP release.clear
  :: else
  fi;
  CLOSE_IF_UNHELD(m.chunk);
  same = 0; holder = 0
#endif
  ;
  m.chunk = 0; m.tag = 0
}

/* The publisher moves the cursor of subscriber k over the message at `at`, and takes it back. */
inline move_cursor() {
  m.chunk = CELL(l, at).chunk; m.tag = CELL(l, at).tag;
  atomic { // STEP drop.cursor detach.message
    won = 0;
    if
#ifdef BUG_DROP_BY_STORE
    :: true ->
#else
    :: CURSOR(l, k).position == at && CURSOR(l, k).S == S && CURSOR(l, k).D == D && CURSOR(l, k).epoch == served[k] ->
#endif
       CURSOR(l, k).position = at + 1; won = 1
#ifndef BUG_DROP_BY_STORE
    :: else
#endif
    fi
  };
  same = 0;
  if :: won -> take_back() :: else -> m.chunk = 0; m.tag = 0 fi
}

/* PublisherPort::Detach */
inline detach() {
#ifndef LOSSY
  if
  :: CURSOR(l, k).stopped == served[k] -> // STEP detach.stopped
     at = CURSOR(l, k).position; // STEP detach.position
     atomic { // STEP detach.kept
       CURSOR(l, k).kept.chunk = CELL(l, at).chunk; CURSOR(l, k).kept.tag = CELL(l, at).tag
     };
     atomic { // STEP given_up.claim
       won = 0;
       if
       :: CURSOR(l, k).given_epoch != served[k] ->
          CURSOR(l, k).given_epoch = served[k]; CURSOR(l, k).given_position = at; won = 1
       :: else
       fi
     };
     if
     :: won ->
#ifndef BUG_TAKE_BACK_WHAT_MAY_BE_TAKEN
        at++;
#endif
        do
        :: at < t -> m.chunk = CELL(l, at).chunk; m.tag = CELL(l, at).tag; take_back(); at++
        :: else -> break
        od;
        served[k] = 0
     :: else
     fi
  :: else
  fi;
#endif
  do
  :: served[k] != 0 ->
     atomic { at = CURSOR(l, k).position; S = CURSOR(l, k).S; D = CURSOR(l, k).D; same = CURSOR(l, k).epoch == served[k] }; // STEP detach.cursor
     if
     :: !same -> served[k] = 0
     :: same && at >= t ->
        atomic { // STEP detach.end
          if
          :: CURSOR(l, k).position == at && CURSOR(l, k).S == S && CURSOR(l, k).D == D && CURSOR(l, k).epoch == served[k] ->
             CURSOR(l, k).epoch = 0; served[k] = 0
          :: else
          fi
        }
     :: same && at < t ->
        move_cursor()
     fi
  :: else -> break
  od;
  at = 0; won = 0; same = 0; S = 0; D = 0
}

inline refresh() {
  e = entry_epoch[k]; // STEP refresh.entry
  if :: served[k] != 0 && e != served[k] -> detach() :: else fi;
  if
  :: e != 0 && served[k] == 0 -> atomic { CURSOR(l, k).position = t; CURSOR(l, k).epoch = e; served[k] = e } // STEP serve.cursor
  :: else
  fi;
  e = 0
}

inline look_who_is_there() {
  stamp = subscriber_stamp; // STEP refresh.stamp
#if SUBSCRIBERS > 1
  k = 0; refresh(); k = 1; refresh(); k = 0
#else
  refresh()
#endif
}

#define ROOM(k) (served[k] == 0 || CURSOR(l, k).position + CAPACITY > t)
#if SUBSCRIBERS > 1
#define ROOM_EVERYWHERE (ROOM(0) && ROOM(1))
#else
#define ROOM_EVERYWHERE ROOM(0)
#endif

inline wait_for_room() {
  do
  :: !ROOM_EVERYWHERE && subscriber_stamp != stamp -> look_who_is_there() // STEP room.stamp
  :: ROOM_EVERYWHERE -> break // STEP room.cursor
  od
}

inline drop_oldest() {
  do
  :: served[k] != 0 ->
     atomic { at = CURSOR(l, k).position; S = CURSOR(l, k).S; D = CURSOR(l, k).D }; // STEP drop.look
     if :: at + CAPACITY <= t -> move_cursor() :: else -> break fi
  :: else -> break
  od;
  at = 0; won = 0; S = 0; D = 0
}

inline loan() { /* `c`: the chunk + 1, or 0 */
  c = cached; cached = 0;
  if
  :: c == 0 ->
     k = 0;
     do
     :: k < CHUNKS && c == 0 ->
        atomic { if :: record[k].kind == FREE -> record[k].kind = LOANED; record[k].owner = me; record[k].stamp++; c = k + 1 :: else fi; k++ } // STEP chunk.take
     :: else -> break
     od;
     k = 0
  :: else
  fi
}

inline send() {
#ifdef MOVED
  tag = record[c - 1].stamp; // STEP publish.moved
#else
  atomic { record[c - 1].gen++; tag = record[c - 1].gen }; // STEP share.generation
  if :: served[0] != 0 -> record[c - 1].slot[0] = me :: else fi; // STEP share.slot
#if SUBSCRIBERS > 1
  if :: served[1] != 0 -> record[c - 1].slot[1] = me :: else fi; // STEP share.slot
#endif
  atomic { assert(record[c - 1].kind == LOANED && record[c - 1].owner == me); record[c - 1].kind = SHARED; record[c - 1].owner = 0 }; // STEP share.word
#endif
  atomic { // STEP publish.cell
    CELL(l, t).chunk = c - 1; CELL(l, t).tag = tag;
    sent[l * MESSAGES + t].chunk = c - 1; sent[l * MESSAGES + t].tag = tag
  };
  atomic { t++; tail[l] = t } // STEP publish.tail
}

proctype Publisher(byte l; byte me) {
  byte t, n, k, c, tag, at, e, stamp, cached, holder;
  byte served[SUBSCRIBERS];
  bit S, D, won, same;
  Cell m;
  {
    look_who_is_there();
    do
    :: n < MESSAGES ->
       n++;
       if :: subscriber_stamp != stamp -> look_who_is_there() :: else fi; // STEP publish.look
#ifdef LOSSY
       drop_oldest();
#if SUBSCRIBERS > 1
       k = 1; drop_oldest(); k = 0;
#endif
#else
       wait_for_room();
#endif
       if
#if SUBSCRIBERS > 1
       :: served[0] != 0 || served[1] != 0 -> loan()
#else
       :: served[0] != 0 -> loan()
#endif
       :: else
       fi;
       if :: c != 0 -> send() :: else fi;
       c = 0; tag = 0
    :: else -> break
    od;
    if :: cached != 0 -> atomic { TO_FREE(cached - 1); cached = 0 } :: else fi; // STEP flush.free
    published[l] = 1 // MODEL
  } unless { dead[me] };
  t = 0; n = 0; k = 0; c = 0; tag = 0; at = 0; e = 0; stamp = 0; cached = 0; holder = 0;
  S = 0; D = 0; won = 0; same = 0; m.chunk = 0; m.tag = 0; served[0] = 0
}

/* SubscriberPort::TakeOver */
inline take_over() {
#ifdef MOVED
  assert(record[m.chunk].kind == LOANED); // STEP take_over.look
  assert((record[m.chunk].owner == PUBLISHER_OF(l) && record[m.chunk].stamp == m.tag) ||
         (record[m.chunk].owner == me && record[m.chunk].stamp == m.tag + 1));
  atomic { record[m.chunk].kind = LOANED; record[m.chunk].owner = me; record[m.chunk].stamp = m.tag + 1 } // STEP take_over.word
#else
  assert(record[m.chunk].slot[k] == PUBLISHER_OF(l) || record[m.chunk].slot[k] == me); // STEP take_over.holder
  record[m.chunk].slot[k] = me // STEP take_over.slot
#endif
}

inline use_and_release() {
  assert(m.chunk == sent[l * MESSAGES + at].chunk && m.tag == sent[l * MESSAGES + at].tag);
#ifdef LOSSY
  assert(next[l] == 0 || at + 1 >= next[l]);
#else
  assert(next[l] == 0 || at + 1 == next[l]);
#endif
  next[l] = at + 2; /* the position that comes next, + 1 */
#ifdef MOVED
  atomic { assert(record[m.chunk].kind == LOANED && record[m.chunk].owner == me && record[m.chunk].stamp == m.tag + 1); TO_FREE(m.chunk) } // STEP flush.free
#else
  atomic { assert(record[m.chunk].kind == SHARED && record[m.chunk].gen == m.tag && record[m.chunk].slot[k] == me); record[m.chunk].slot[k] = 0 }; // STEP release.clear
  CLOSE_IF_UNHELD(m.chunk)
#endif
}

#define WAITS(l) (CURSOR(l, k).epoch == me && CURSOR(l, k).position < tail[l])
#define ENDED(l) (published[l] || swept[PUBLISHER_OF(l)])

inline look_at(lane) { atomic { l = lane; at = CURSOR(l, k).position; S = CURSOR(l, k).S; D = CURSOR(l, k).D } }

inline take() {
  atomic { m.chunk = CELL(l, at).chunk; m.tag = CELL(l, at).tag }; // STEP take.cell
#ifdef STOP
  won = CURSOR(l, k).stopped == me; // STEP take.stopped
  if :: won -> atomic { left[k] = 1; won = 0 }; break :: else fi; // STEP leave.epoch
#endif
#ifdef LOSSY
#ifndef BUG_TAKE_WITHOUT_CLAIM
  atomic { // STEP take.claim
    CURSOR(l, k).taking.valid = 1; CURSOR(l, k).taking.chunk = m.chunk; CURSOR(l, k).taking.tag = m.tag; CURSOR(l, k).taking.flag = S
  };
#endif
  atomic { // STEP take.win
    won = 0;
    if
    :: CURSOR(l, k).position == at && CURSOR(l, k).S == S && CURSOR(l, k).D == D && CURSOR(l, k).epoch == me ->
       CURSOR(l, k).position = at + 1; CURSOR(l, k).S = !S; won = 1
    :: else
    fi
  };
  if :: won -> take_over() :: else fi;
  NO_CLAIM(CURSOR(l, k).taking); // STEP take.unclaim
#elif defined(BUG_CURSOR_BEFORE_TAKE_OVER)
  atomic { CURSOR(l, k).position = at + 1; CURSOR(l, k).D = D };
  take_over();
  won = 1;
#else
  take_over();
  atomic { CURSOR(l, k).position = at + 1; CURSOR(l, k).D = D; CURSOR(l, k).epoch = me }; // STEP take.cursor
  won = 1;
#endif
  if :: won -> use_and_release() :: else fi;
  l = 0; at = 0; S = 0; D = 0; won = 0; m.chunk = 0; m.tag = 0
}

proctype Subscriber(byte k; byte me) {
  byte l, at;
  byte next[PUBLISHERS];
  bit S, D, won;
  Cell m;
  {
    do
    :: atomic { WAITS(0) -> look_at(0) }; take() // STEP take.look take.tail
#if PUBLISHERS > 1
    :: atomic { WAITS(1) -> look_at(1) }; take() // STEP take.look take.tail
    :: ENDED(0) && ENDED(1) && !WAITS(0) && !WAITS(1) -> break
#else
    :: ENDED(0) && !WAITS(0) -> break
#endif
#ifdef LEAVE
    :: k == 0 -> left[k] = 1; break // STEP leave.epoch
#endif
#ifdef STOP
    :: CURSOR(0, k).stopped == me -> left[k] = 1; break // STEP take.stopped leave.epoch
#endif
    od;
    finished[me] = 1 // MODEL
  } unless { dead[me] };
  l = 0; at = 0; S = 0; D = 0; won = 0; m.chunk = 0; m.tag = 0; next[0] = 0
#if PUBLISHERS > 1
  ; next[1] = 0
#endif
}

#ifdef ANOTHER_CHANNEL
/* A thread of the publisher's session that shares a chunk elsewhere, by the same slot, and gets it back. */
proctype Another(byte me) {
  byte c, k, cached, g;
  {
    loan();
    if
    :: c != 0 ->
       atomic { c--; record[c].gen++; g = record[c].gen }; // STEP share.generation
       record[c].slot[0] = me; // STEP share.slot
       atomic { record[c].kind = SHARED; record[c].owner = 0 }; // STEP share.word
       atomic { // STEP release.clear
         assert(record[c].kind == SHARED && record[c].gen == g && record[c].slot[0] == me);
         record[c].slot[0] = 0
       };
       CLOSE_IF_UNHELD(c)
    :: else
    fi;
    another_done = 1 // MODEL
  } unless { dead[me] };
  c = 0; k = 0; g = 0
}
#endif

proctype Killer() {
  byte v;
  do
  :: kills < KILLS ->
     if
     :: v = 1 :: v = 3
#if PUBLISHERS > 1 && !defined(ONE_SESSION)
     :: v = 2
#endif
#if SUBSCRIBERS > 1
     :: v = 4
#endif
     fi;
     atomic { if :: !dead[v] && !finished[v] -> dead[v] = 1; kills++ :: else fi; v = 0 } // MODEL
  :: restarts < RESTARTS -> restarts++; crash = 1 // MODEL
  :: break
  od
}

#include "lane_daemon.pml"

init {
  atomic {
    lane_session[0] = 1; entry_epoch[0] = 3; entry_session[0] = 3;
#if SUBSCRIBERS > 1
    entry_epoch[1] = 4; entry_session[1] = 4; run Subscriber(1, 4);
#endif
    run Subscriber(0, 3); run Publisher(0, 1);
#if PUBLISHERS > 1
    lane_session[1] = PUBLISHER_OF(1); run Publisher(1, PUBLISHER_OF(1));
#endif
#ifdef ANOTHER_CHANNEL
    run Another(1);
#else
    another_done = 1;
#endif
    run Killer(); run Daemon()
  }
}
