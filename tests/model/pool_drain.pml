/* A pool is deleted under clients whose threads stand still or idle with chunks in their caches.
 *
 * Code: shm/pool_drain.cc; StartDrain, SettleDrain and RemovePool of pool_changes.cc; Session::TryLoan,
 *   LoanSlow, Refill, GiveUp, TryRelease, ToCache and Flush.
 * Processes: two clients with OPS1 and OPS2 operations, which then idle with what is in their caches; the
 *   daemon, which dies RESTARTS times. REVOCABLE: a flush looks whether it has what it gives back.
 * Memory: a client's stores of labels wait in its store buffer, one at a time (x86-TSO); Settle
 *   empties all buffers. The rest is sequentially consistent.
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
#define DAEMON 9

byte kind[CHUNKS], owner[CHUNKS];
byte label[CHUNKS]; /* LOANED or CACHED */
bit closed;         /* MemPool::use, its open bit */
bit gone;
bit waits[3];       /* the client's store buffer */
byte waiting_chunk[3], waiting_label[3];
byte held;          /* chunks that applications have */
byte idle;          /* clients that do nothing more */
bit crash;
byte restarts;

#define DRAIN(i) if :: waits[i] -> label[waiting_chunk[i]] = waiting_label[i]; waits[i] = 0; waiting_chunk[i] = 0; waiting_label[i] = 0 :: else fi
#define STORE_LABEL(c, l) DRAIN(me); waits[me] = 1; waiting_chunk[me] = c; waiting_label[me] = l
#define IS_CACHED(c) (waits[me] && waiting_chunk[me] == c -> waiting_label[me] == CACHED : label[c] == CACHED)
#define OWN(c) (kind[c] == LOANED && owner[c] == me)

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
     atomic { cached[0] = 0; cached[1] = 0 }
  fi;
  shut = 0; found = 0
}

inline loan_from_cache() {
  cached[c] = 0;
  found = OWN(c);
  if
  :: found ->
     atomic { STORE_LABEL(c, LOANED) }; // STEP loan.label
     found = OWN(c); // STEP loan.word
     if :: found -> finish_loan() :: else fi
  :: else
  fi
}

inline refill(for_cache) {
  atomic { DRAIN(me); found = kind[c] == FREE; if :: found -> kind[c] = LOANED; owner[c] = me :: else fi }; // STEP chunk.take
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
     found = 0
  :: found && !for_cache -> atomic { STORE_LABEL(c, LOANED) }; finish_loan() // STEP loan.label
  :: else
  fi
}

inline release() {
  atomic { assert(!gone); held--; mine[c] = 0 }; // MODEL
  atomic { STORE_LABEL(c, CACHED) }; // STEP release.label
  cached[c] = 1
}

inline flush() {
  shut = closed; // STEP flush.look
  cached[c] = 0;
  if
  :: !shut ->
#ifdef REVOCABLE
     atomic { STORE_LABEL(c, LOANED) }; // STEP loan.label
     found = OWN(c);
     if :: found -> atomic { DRAIN(me); kind[c] = FREE; owner[c] = 0 } :: else fi; // STEP flush.free
     found = 0
#else
     atomic { DRAIN(me); kind[c] = FREE; owner[c] = 0 } // STEP flush.free
#endif
  :: else
  fi;
  shut = 0
}

proctype Client(byte me; byte ops) { /* ops: how many are left */
  byte c;
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
          if :: take && kind[c] == k && owner[c] == o -> kind[c] = LOANED; owner[c] = DAEMON :: else -> left++ fi
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
