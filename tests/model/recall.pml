/* Cached chunks of a revocable pool are taken back by whoever finds no other.
 *
 * Code: Confirm, ReplaceWord and TakeFree of shm/chunk_ops.h; LoanCache::TryLoan and TryRelease; Session::Refill,
 *   Recall, ToCache and Flush; SubscriberPort::TakeOver; Recovery::Sweep.
 * Processes: three clients with OPS (OPS1, OPS3) operations each, any of which may take back, of which KILLS die between any two
 *   of their steps; the daemon, which sweeps. One chunk. MOVED: clients also send it to each other.
 * Memory: a client's stores of labels wait in its store buffer, one at a time (x86-TSO); the barrier empties all
 *   buffers. The rest is sequentially consistent.
 * Abstracted: anybody marks what is LOANED, whatever its label says, so that marks come as late as they can. Each
 *   cache has one entry.
 * Property: nobody has the chunk while another has it; in the end it is free, somebody's, or in a cache.
 */
#ifndef OPS
#define OPS 2
#endif
#ifndef OPS1
#define OPS1 OPS
#endif
#ifndef OPS3
#define OPS3 OPS
#endif
#ifndef KILLS
#define KILLS 0
#endif
#define FREE 0
#define LOANED 2
#define CACHED 1 /* a label; LOANED stands for all others */

byte kind, owner, stamp; /* the word */
bit recalled;
byte label;
bit waits[4]; /* the store buffers */
byte waiting[4];
bit has[4];   /* surely: no other may write to it */
bit cached[4];
byte word[4]; /* the stamp that the cache has of it */
bit dead[4], swept[4], done[4];
byte kills;
byte in_lane, tag; /* its sender, 0: none */

#define DRAIN(i) if :: waits[i] -> label = waiting[i]; waits[i] = 0; waiting[i] = 0 :: else fi
#define STORE_LABEL(l) DRAIN(me); waits[me] = 1; waiting[me] = l
#define LABEL (waits[me] -> waiting[me] : label)
#define NOBODY (!has[1] && !has[2] && !has[3])

/* Confirm; `sure` */
inline confirm() {
  sure = kind == LOANED && owner == me && stamp == mine;
  if
  :: sure ->
     atomic { STORE_LABEL(LOANED) }; // STEP loan.label
#ifndef BUG_OWNER_DOES_NOT_LOOK
     atomic { sure = kind == LOANED && owner == me && stamp == mine; marked = recalled }; // STEP loan.word
     if
     :: sure && marked ->
        atomic { // STEP settle.word
          DRAIN(me);
          sure = kind == LOANED && owner == me && stamp == mine && recalled;
          if
#ifdef BUG_SETTLES_TO_THE_SAME_STAMP
          :: sure -> recalled = 0
#else
          :: sure -> recalled = 0; stamp++
#endif
          :: else
          fi
        }
     :: else
     fi;
     marked = 0;
#endif
     if :: sure -> atomic { assert(NOBODY); has[me] = 1 } :: else fi // MODEL
  :: else
  fi;
  mine = 0
}

inline refill(for_cache) {
  atomic { // STEP chunk.take
    DRAIN(me); sure = kind == FREE;
    if :: sure -> assert(NOBODY); kind = LOANED; owner = me; stamp++; recalled = 0; mine = stamp :: else fi
  };
  if
  :: sure && for_cache ->
#ifndef BUG_REFILL_LABELS_WHAT_MAY_BE_ANOTHERS
     sure = LABEL != CACHED;
#ifndef BUG_REFILL_BELIEVES_A_LABEL
     from = mine;
     if :: sure -> confirm() :: else fi;
     mine = from; from = 0;
     if :: sure -> atomic { has[me] = 0; mine = stamp } :: else fi; // MODEL
#endif
#endif
     if :: sure -> atomic { STORE_LABEL(CACHED) } :: else fi; // STEP cached.label
     atomic { cached[me] = 1; word[me] = mine; mine = 0 } // MODEL
  :: sure && !for_cache -> confirm()
  :: else
  fi;
  sure = 0
}

inline recall() {
  atomic { // STEP recall.mark
    DRAIN(me); mine = 0;
    if :: kind == LOANED -> recalled = 1; mine = stamp; from = owner :: else fi
  };
  if
  :: mine != 0 ->
#ifndef BUG_NO_BARRIER
     atomic { DRAIN(1); DRAIN(2); DRAIN(3) }; // STEP recall.barrier
#endif
#ifdef BUG_DOES_NOT_LOOK_AT_THE_LABEL
     sure = 1;
#else
     sure = LABEL == CACHED; // STEP recall.label
#endif
     if
     :: sure ->
        atomic { // STEP recall.word
          DRAIN(me);
          sure = kind == LOANED && owner == from && stamp == mine && recalled;
          if
          :: sure -> assert(NOBODY); owner = me; stamp++; recalled = 0; mine = stamp
          :: sure -> assert(NOBODY); kind = FREE; owner = 0; stamp++; recalled = 0; mine = 0; sure = 0
          :: else -> mine = 0
          fi;
          from = 0
        };
        if :: sure -> confirm() :: else fi
     :: else -> mine = 0; from = 0
     fi
  :: else
  fi;
  sure = 0
}

inline free() {
  mine = stamp;
  atomic { // STEP flush.free
    DRAIN(me); assert(has[me] && kind == LOANED && owner == me && stamp == mine);
    has[me] = 0; kind = FREE; owner = 0; stamp++; recalled = 0; mine = 0
  }
}

inline take_over() {
  atomic { from = in_lane; mine = tag; in_lane = 0; tag = 0; sure = kind == LOANED && owner == from && stamp == mine }; // STEP take_over.look
  if
  :: sure ->
     atomic { // STEP take_over.word
       DRAIN(me); assert(NOBODY && kind == LOANED && owner == from && stamp == mine);
       owner = me; stamp++; recalled = 0; has[me] = 1
     }
  :: else
  fi;
  sure = 0; mine = 0; from = 0
}

proctype Client(byte me; byte ops) {
  byte mine, from;
  bit sure, marked;
  {
    do
    :: ops > 0 ->
       ops--;
       if
       :: !has[me] -> recall()
       :: !has[me] && !cached[me] -> refill(0)
       :: !has[me] && !cached[me] -> refill(1)
       :: cached[me] && !has[me] -> atomic { cached[me] = 0; mine = word[me]; word[me] = 0 }; confirm(); sure = 0 // MODEL
       :: cached[me] && !has[me] -> /* flush */
          atomic { cached[me] = 0; mine = word[me]; word[me] = 0 }; // MODEL
          confirm();
          if :: sure -> free() :: else fi;
          sure = 0
       :: has[me] && !cached[me] ->
          atomic { cached[me] = 1; word[me] = stamp; has[me] = 0 }; // MODEL
          atomic { STORE_LABEL(CACHED) } // STEP release.label
#ifdef MOVED
       :: has[me] && in_lane == 0 -> atomic { DRAIN(me); has[me] = 0; in_lane = me; tag = stamp } // STEP publish.moved
       :: !has[me] && in_lane != 0 && in_lane != me -> take_over()
#endif
       :: has[me] && cached[me] -> skip
       fi
    :: else -> break
    od;
    done[me] = 1 // MODEL
  } unless { dead[me] };
  ops = 0; mine = 0; from = 0; sure = 0; marked = 0
}

proctype StoreBuffers() {
end:
  do
  :: atomic { waits[1] -> DRAIN(1) } // MODEL
  :: atomic { waits[2] -> DRAIN(2) } // MODEL
  :: atomic { waits[3] -> DRAIN(3) } // MODEL
  od
}

proctype Killer() {
  byte v;
  do
  :: kills < KILLS ->
     v = 1; do :: v < 3 -> v++ :: break od;
     atomic { if :: !done[v] && !dead[v] -> dead[v] = 1; has[v] = 0; cached[v] = 0; word[v] = 0; kills++; DRAIN(v) :: else fi; v = 0 } // MODEL
  :: break
  od
}

#define GONE(i) (dead[i] && !swept[i])
#define ENDED(i) (done[i] || swept[i])

proctype Daemon() {
  byte seen, holder;
  bit loaned, marked, gone[4];
  do
  :: GONE(1) || GONE(2) || GONE(3) ->
     atomic { gone[1] = GONE(1); gone[2] = GONE(2); gone[3] = GONE(3) };
     atomic { holder = owner; seen = stamp; marked = recalled; loaned = kind == LOANED && gone[holder] }; // STEP sweep.load
     if
     :: loaned ->
        atomic { // STEP free.word
          if
          :: kind == LOANED && owner == holder && stamp == seen && recalled == marked ->
             assert(NOBODY); kind = FREE; owner = 0; stamp++; recalled = 0; loaned = 0
          :: else
          fi
        };
#ifndef BUG_SWEEP_FAILS_AT_A_MARK
        atomic { // STEP free.word
          if
          :: loaned && kind == LOANED && owner == holder && stamp == seen && recalled ->
             assert(NOBODY); kind = FREE; owner = 0; stamp++; recalled = 0
          :: else
          fi
        }
#endif
     :: else
     fi;
     atomic { // MODEL
       if :: gone[1] -> swept[1] = 1 :: else fi;
       if :: gone[2] -> swept[2] = 1 :: else fi;
       if :: gone[3] -> swept[3] = 1 :: else fi;
       gone[1] = 0; gone[2] = 0; gone[3] = 0; holder = 0; seen = 0; loaned = 0; marked = 0
     }
  :: ENDED(1) && ENDED(2) && ENDED(3) && !waits[1] && !waits[2] && !waits[3] -> break
  od;
  assert(kind == FREE || has[owner] || in_lane != 0 || (cached[owner] && word[owner] == stamp))
}

init {
  atomic {
    kind = LOANED; owner = 1; stamp = 1; label = CACHED; cached[1] = 1; word[1] = 1; /* as a release leaves it */
    run Client(1, OPS1); run Client(2, OPS); run Client(3, OPS3); run StoreBuffers(); run Killer(); run Daemon()
  }
}
