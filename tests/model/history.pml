/* History: a late joiner opens what the publisher keeps, then goes on with what is granted to it.
 *
 * Code: SubscriberPort::TakeFromHistory and OpenMessage; PublisherPort::Publish, Serve and
 *   LetGoOfHistory; Recovery::Sweep.
 * Processes: a publisher that keeps the last HISTORY of MESSAGES messages in a lane of CAPACITY cells;
 *   a subscriber that joins at any time, when the publisher learns of it or not. KILLS: the publisher
 *   may die anywhere, and is swept after delivery.
 * Abstracted: sequentially consistent memory; opening, and giving up a slot with the close after it,
 *   are one step each (chunk.pml); a waiting subscriber; the holders' slots never run out.
 * Property: what is opened is the message of its position; positions grow by one, unless the history
 *   has moved on, and no message comes twice or is missed between history and grants; in the end no
 *   chunk is held.
 */
#ifndef HISTORY
#define HISTORY 1
#endif
#ifndef CAPACITY
#define CAPACITY 2
#endif
#ifndef MESSAGES
#define MESSAGES 3
#endif
#ifndef KILLS
#define KILLS 0
#endif
#define CHUNKS (HISTORY + 3)

typedef Record { bit shared; byte gen; byte sequence; bit kept; bit granted; bit taken; bit opened };
typedef Cell { byte chunk; byte gen };
Record record[CHUNKS];
Cell cell[CAPACITY];
byte tail, position, start;
bit served, joined, published, dead, swept, done;

#define HELD(c) (record[c].kept || record[c].granted || record[c].taken || record[c].opened)
#define CLOSE(c) if :: record[c].shared && !HELD(c) -> record[c].shared = 0 :: else fi

/* The publisher's own slot of the message at `at`. */
inline give_up() {
  atomic { // STEP release.clear
    c = cell[at % CAPACITY].chunk;
    assert(record[c].kept); record[c].kept = 0; CLOSE(c); c = 0
  }
}

proctype Publisher() {
  byte t, c, at;
  bit serves, leaves;
  {
    do
    :: t < MESSAGES ->
       if
       :: joined && !serves -> // STEP refresh.entry
          start = t; // STEP serve.start
          atomic { position = t; served = 1; serves = 1 } // STEP serve.cursor
       :: else
       fi;
       do
       :: !serves || position + CAPACITY > t -> break // STEP room.cursor
       od;
       atomic { do :: c < CHUNKS && (record[c].shared || HELD(c)) -> c++ :: else -> break od; assert(c < CHUNKS) };
       atomic { record[c].gen++; record[c].sequence = t + 1 }; // STEP share.generation
       atomic { record[c].kept = 1; record[c].granted = serves; record[c].shared = 1 }; // STEP share.word
       leaves = t >= HISTORY;
       at = t - HISTORY;
       if :: leaves -> at = cell[at % CAPACITY].chunk :: else fi; // STEP publish.leaves
       atomic { cell[t % CAPACITY].chunk = c; cell[t % CAPACITY].gen = record[c].gen; c = 0 }; // STEP publish.cell
       atomic { t++; tail = t }; // STEP publish.tail
       if
       :: leaves -> atomic { assert(record[at].kept); record[at].kept = 0; CLOSE(at) } // STEP release.clear
       :: else
       fi;
       at = 0; leaves = 0
    :: else -> break
    od;
    if
    :: joined && !serves -> // STEP refresh.entry
       start = t; // STEP serve.start
       atomic { position = t; served = 1; serves = 1 } // STEP serve.cursor
    :: else
    fi;
#ifndef BUG_KEEPS_HISTORY
    at = t - HISTORY;
    do
    :: at < t -> give_up(); at++
    :: else -> break
    od;
#endif
    published = 1 // MODEL
  } unless { dead };
  t = 0; c = 0; at = 0; serves = 0; leaves = 0
}

inline open_message() { /* `ok` */
  atomic { c = cell[next % CAPACITY].chunk; g = cell[next % CAPACITY].gen }; // STEP open_message.cell
  atomic { // STEP open.word
    ok = record[c].shared && record[c].gen == g;
    if :: ok -> record[c].opened = 1 :: else fi
  };
  if
  :: ok ->
#ifndef BUG_BELIEVES_ANY_CELL
     ok = record[c].sequence == next + 1; // STEP open_message.sequence
#endif
     if :: ok -> assert(record[c].sequence == next + 1) :: else fi;
     atomic { record[c].opened = 0; CLOSE(c) } // STEP release.clear
  :: else
  fi;
  c = 0; g = 0
}

/* Until `history` is over, or nothing is there now. */
inline take_from_history() {
#ifdef BUG_SERVED_BEFORE_TAIL
  is_served = served; end = tail;
#else
  end = tail; // STEP history.tail
  is_served = served; // STEP history.served
#endif
  if :: is_served -> end = start :: else fi; // STEP history.start
  if :: end > HISTORY && next + HISTORY < end -> next = end - HISTORY; got = 0 :: else fi;
  if
  :: next < end ->
     open_message();
     if :: ok -> assert(first || last + 1 == next || !got); got = 1; first = 0; last = next :: else -> got = 0 fi;
     next++; ok = 0
  :: next >= end && is_served -> history = 0
  :: next >= end && !is_served -> !(next >= tail && !served && !published && !swept)
  fi;
  end = 0; is_served = 0
}

proctype Subscriber() {
  byte next, end, c, g, last, at;
  bit is_served, ok, got;
  bit history = 1, first = 1;
  joined = 1; // STEP join.entry
  do
  :: history && (!(published || swept) || served || next < tail) -> take_from_history()
  :: !history && served && position < tail ->
     at = position; // STEP take.look
     atomic { c = cell[at % CAPACITY].chunk; g = cell[at % CAPACITY].gen }; // STEP take.cell
     assert(record[c].granted || record[c].taken); // STEP take_over.holder
     atomic { record[c].granted = 0; record[c].taken = 1 }; // STEP take_over.slot
     position = at + 1; // STEP take.cursor
     assert(record[c].gen == g && record[c].sequence == at + 1);
     assert(at == next); /* nothing twice, nothing missed */
     next = at + 1; first = 0; last = at;
     atomic { assert(record[c].taken); record[c].taken = 0; CLOSE(c); c = 0; g = 0 } // STEP release.clear
  :: (published || swept) && (!history && position == tail || history && !served && next >= tail) -> break
  od;
  done = 1 // MODEL
}

proctype Daemon() {
  byte at, c;
#if KILLS > 0
  if
  :: atomic { !published -> dead = 1 }; // MODEL
     if
     :: served ->
        at = position; // STEP deliver.cursor
        do
        :: at < tail -> // STEP deliver.tail
           c = cell[at % CAPACITY].chunk; // STEP deliver.cell
           atomic { if :: record[c].granted -> record[c].granted = 0; record[c].taken = 1 :: else fi }; // STEP relabel.slot
           at++
        :: else -> break
        od
     :: else
     fi;
     c = 0;
     do
     :: c < CHUNKS -> atomic { record[c].kept = 0; record[c].granted = 0 }; // STEP sweep.slot
        atomic { CLOSE(c) }; c++ // STEP close.word
     :: else -> break
     od;
     swept = 1 // MODEL
  :: skip
  fi;
#endif
  done && (published || swept);
  c = 0;
  do
  :: c < CHUNKS -> assert(!HELD(c) && !record[c].shared); c++
  :: else -> break
  od
}

init { atomic { run Publisher(); run Subscriber(); run Daemon() } }
