/* A pool is deleted under clients whose threads stand still or idle with chunks in their caches.
 *
 * Code: shm/pool_drain.cc; StartDrain, SettleDrain and RemovePool of pool_changes.cc; Session::TryLoan,
 *   LoanSlow, Refill, GiveUp, TryRelease, ToCache and Flush.
 * Processes: two clients with OPS1 and OPS2 operations, which then idle with what is in their caches; the
 *   daemon, which dies RESTARTS times. REVOCABLE: a flush looks whether it has what it gives back.
 *   An application also uses a chunk again: the word gets its next stamp, by a store that may lose a mark.
 * Memory: a client's stores of labels and of words wait in its store buffer, one at a time (x86-TSO); Settle
 *   empties all buffers. The rest is sequentially consistent. A cache remembers the word that was last stored,
 *   so that it differs from the word only if that is another's, or marked.
 *   Not here: chunks that are shared, others that take cached chunks back (recall.pml), and records of a pool that
 *   is gone, which begin anew.
 * Property: when the pool goes, no application has a chunk of it, and nobody gets one later; when no
 *   application has a chunk, the next look at all records finds them all, whoever stands still.
 */
#ifndef OPS1
#define OPS1 2
#endif
#ifndef OPS2
#define OPS2 1
#endif
#ifndef RESTARTS
#define RESTARTS 0
#endif
#define CHUNKS 2
#define FREE 0
#define CACHED 1
#define LOANED 2
#define NEW_WORD 3 /* in a store buffer, instead of a label */
#define DAEMON 9

byte kind[CHUNKS], owner[CHUNKS];
byte label[CHUNKS]; /* LOANED or CACHED */
bit marked[CHUNKS]; /* the word has the mark */
bit closed;         /* MemPool::use, its open bit */
bit capped;         /* MemPool::cache_cap is 0 */
bit gone;
bit waits[3];       /* the client's store buffer */
byte waiting_chunk[3], waiting_label[3];
byte held;          /* chunks that applications have */
byte idle;          /* clients that do nothing more */
bit crash;
byte restarts;

#define ARRIVES(c, l) if :: l == NEW_WORD -> marked[c] = 0 :: else -> label[c] = l fi
#define DRAIN(i) if :: waits[i] -> ARRIVES(waiting_chunk[i], waiting_label[i]); waits[i] = 0; waiting_chunk[i] = 0; waiting_label[i] = 0 :: else fi
#define STORE_LABEL(c, l) DRAIN(me); waits[me] = 1; waiting_chunk[me] = c; waiting_label[me] = l
#define IS_NEWEST(c, l) (waits[me] && waiting_chunk[me] == c && waiting_label[me] == l)
#define IS_CACHED(c) (waits[me] && waiting_chunk[me] == c && waiting_label[me] != NEW_WORD -> waiting_label[me] == CACHED : label[c] == CACHED)
#define OWN(c) (kind[c] == LOANED && owner[c] == me)
#define AS_REMEMBERED(c) (OWN(c) && (!marked[c] || IS_NEWEST(c, NEW_WORD)))

/* The client has chunk c for its application, unless the pool is closed. */
inline finish_loan() {
#ifdef BUG_LOAN_DOES_NOT_LOOK
  shut = 0;
#else
  shut = closed; // STEP loan.look
#endif
  if
  :: !shut -> atomic { assert(!gone); held++; mine[c] = 1 } // MODEL
  :: else ->
     atomic { STORE_LABEL(c, CACHED) }; // STEP give_up.label
     give_up()
  fi;
  shut = 0; found = 0
}

/* All that is cached is the daemon's to take: labelled loaned by a loan that ended between its two looks. */
inline give_up() {
  d = 0;
  do
  :: d < CHUNKS ->
     if
     :: cached[d] && !IS_CACHED(d) && OWN(d) ->
        atomic { STORE_LABEL(d, LOANED) }; // STEP loan.label
        atomic { DRAIN(me); found = OWN(d); if :: found -> marked[d] = 0 :: else fi }; // STEP settle.word
        if :: found -> atomic { STORE_LABEL(d, CACHED) } :: else fi; // STEP cached.label
        found = 0
     :: else
     fi;
     cached[d] = 0;
     d++
  :: else -> break
  od;
  d = 0
}

/* Inlined; what it cannot do, the library does, which finds the pool closed. */
inline loan_from_cache() {
  found = AS_REMEMBERED(c);
  if
  :: found ->
     atomic { STORE_LABEL(c, LOANED) }; // STEP loan.label
#ifdef BUG_DOES_NOT_LOOK_AGAIN
     found = 1;
#else
     found = AS_REMEMBERED(c); // STEP loan.word
#endif
  :: else
  fi;
  if
  :: found -> atomic { assert(!gone); held++; mine[c] = 1; cached[c] = 0 } // MODEL
  :: else ->
     shut = closed; // STEP loan.look
     if :: shut -> give_up() :: else -> cached[c] = 0 fi
  fi;
  shut = 0; found = 0
}

/* The word's next stamp: taken, or taken back, without a look at marks. */
inline use_again() {
  atomic { STORE_LABEL(c, NEW_WORD) } // STEP take_back.moved
}

inline refill(for_cache) {
  atomic { DRAIN(me); found = kind[c] == FREE; if :: found -> kind[c] = LOANED; owner[c] = me; marked[c] = 0 :: else fi }; // STEP chunk.take
  if
  :: found && for_cache ->
     cached[c] = 1;
     found = !IS_CACHED(c);
     if
     :: found ->
        atomic { STORE_LABEL(c, LOANED) }; // STEP loan.label
        found = OWN(c);
        if :: found -> atomic { STORE_LABEL(c, CACHED) } :: else fi // STEP cached.label
     :: else
     fi;
#ifndef BUG_REFILL_DOES_NOT_LOOK
     shut = closed; // STEP loan.look
#endif
     if :: shut -> give_up() :: else fi;
     shut = 0; found = 0
  :: found && !for_cache -> atomic { STORE_LABEL(c, LOANED) }; finish_loan() // STEP loan.label
  :: else
  fi
}

inline release() {
  shut = capped; // STEP release.cap
  atomic { assert(!gone); held--; mine[c] = 0 }; // MODEL
  atomic { STORE_LABEL(c, CACHED) }; // STEP release.label
  cached[c] = 1;
  if
  :: shut -> shut = closed; if :: shut -> give_up() :: else fi // STEP flush.look
  :: else
  fi;
  shut = 0
}

inline flush() {
  shut = closed; // STEP flush.look
  cached[c] = 0;
  if
  :: !shut ->
#ifdef REVOCABLE
     atomic { STORE_LABEL(c, LOANED) }; // STEP loan.label
     found = OWN(c);
     if :: found -> atomic { DRAIN(me); kind[c] = FREE; owner[c] = 0; marked[c] = 0 } :: else fi; // STEP flush.free
     found = 0
#else
     atomic { DRAIN(me); kind[c] = FREE; owner[c] = 0; marked[c] = 0 } // STEP flush.free
#endif
  :: else
  fi;
  shut = 0
}

proctype Client(byte me; byte ops) { /* ops: how many are left */
  byte c, d;
  bit mine[CHUNKS], cached[CHUNKS];
  bit found, shut;
  do
  :: ops > 0 ->
     ops--;
     c = 0; if :: c = 1 :: skip fi;
     if
     :: cached[c] -> loan_from_cache()
     :: cached[c] -> flush()
     :: mine[c] -> release()
     :: mine[c] -> use_again()
     :: !mine[c] && !cached[c] -> refill(0)
     :: !mine[c] && !cached[c] -> refill(1)
     fi
  :: else -> break
  od;
  c = 0;
  do :: c < CHUNKS -> if :: mine[c] -> release() :: else fi; c++ :: else -> break od;
  idle++ // MODEL
}

proctype StoreBuffers() {
end:
  do
  :: atomic { waits[1] -> DRAIN(1) } // MODEL
  :: atomic { waits[2] -> DRAIN(2) } // MODEL
  od
}

/* PoolDrain::Step: `left` chunks are not the daemon's */
inline step() {
  left = 0; c = 0;
  do
  :: c < CHUNKS ->
     atomic { k = kind[c]; o = owner[c] }; // STEP pool_take.load
     if
     :: o == DAEMON -> skip
     :: else ->
#ifdef BUG_TAKES_WHAT_IS_LOANED
        take = 1;
#elif defined(BUG_LEAVES_CACHES)
        take = k == FREE;
#else
        take = k == FREE || label[c] == CACHED; // STEP pool_take.label
#endif
        atomic { // STEP pool_take.word
          if :: take && kind[c] == k && owner[c] == o -> kind[c] = LOANED; owner[c] = DAEMON; marked[c] = 0 :: else -> left++ fi
        }
     fi;
     c++; k = 0; o = 0; take = 0
  :: else -> break
  od;
  c = 0
}

proctype Daemon() {
  byte c, k, o, left;
  bit take, last;
start:
  {
    closed = 1; // STEP pool_close.use
#ifndef BUG_CACHES_ARE_KEPT
    capped = 1; // STEP pool_close.cap
#endif
#ifndef BUG_MARKS_AT_ONCE
    atomic { DRAIN(1); DRAIN(2) }; // STEP pool_close.settle
#endif
#ifndef BUG_NO_MARK
    c = 0;
    do
    :: c < CHUNKS -> atomic { if :: kind[c] == LOANED && owner[c] != DAEMON -> marked[c] = 1 :: else fi; c++ } // STEP pool_close.mark
    :: else -> break
    od;
    c = 0;
#endif
#ifndef BUG_NO_SETTLE
    atomic { DRAIN(1); DRAIN(2) }; // STEP pool_close.settle
#endif
    do
    :: !gone ->
       last = idle == 2 && !waits[1] && !waits[2];
       step();
       if
       :: left == 0 -> atomic { assert(held == 0); gone = 1 } // STEP pool_remove.state
       :: else -> assert(!last) /* nothing may be left in an idle thread's cache */
       fi
    :: else -> break
    od
  } unless { atomic { crash -> crash = 0; c = 0; k = 0; o = 0; left = 0; take = 0; last = 0 } }; // MODEL
  if :: !gone -> goto start :: else fi
}

init {
  atomic {
    run Client(1, OPS1); run Client(2, OPS2); run StoreBuffers(); run Daemon()
  };
  if :: restarts < RESTARTS -> restarts++; crash = !gone :: skip fi
}
