/* The life of one chunk: its word and its holder slots.
 *
 * Code: shm/chunk_ops.h; Session::Flush; Recovery::Sweep.
 * Processes: CLIENTS sessions, the first with OPS1 operations, the others with OPS2, of which KILLS die between any two of their
 *   steps; the daemon, which sweeps and dies RESTARTS times between any two of its own.
 * Abstracted: sequentially consistent memory (memory_order.cc has the weak one); one grant slot and
 *   two for openers; caching changes nothing (recall.pml has what may be taken back).
 * Property: a chunk never has two owners, nor an owner and a holder; an open by a handle gives that
 *   generation or nothing; in the end the chunk is free and no slot is set.
 */
#ifndef CLIENTS
#define CLIENTS 2
#endif
#ifndef OPS1
#define OPS1 3
#endif
#ifndef OPS2
#define OPS2 1
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef RESTARTS
#define RESTARTS 0
#endif
#ifdef ONE_SESSION /* both clients are threads of session 1; without kills */
#define SECOND 1
#else
#define SECOND 2
#endif
#define FREE 0
#define LOANED 2
#define SHARED 3
#define SLOTS 3
#ifdef BUG_OWNER_STORES_INTO_OPEN_SLOT
#define GRANT_SLOTS 0
#else
#define GRANT_SLOTS 1
#endif
#define NONE 9

byte kind, owner, stamp; /* the word */
byte gen;
byte slot[SLOTS];
/* What each client may believe: that the chunk is its own, that it holds a reference. */
bit owns[CLIENTS + 1], holds[CLIENTS + 1];
bit dead[CLIENTS + 1], swept[CLIENTS + 1], done[CLIENTS + 1];
byte kills;
bit crash;
byte restarts;
byte ended;
#if CLIENTS > 2
#define OWNERS (owns[1] + owns[2] + owns[3])
#define HOLDERS (holds[1] + holds[2] + holds[3])
#else
#define OWNERS (owns[1] + owns[2])
#define HOLDERS (holds[1] + holds[2])
#endif

inline becomes_owner() { assert(OWNERS == 0 && HOLDERS == 0); owns[me] = 1 } // MODEL

inline look(except) { /* `any`: a slot other than `except` is set */
  k = 0; any = 0;
  do
  :: k < SLOTS && !any -> atomic { if :: slot[k] != 0 && k != except -> any = 1 :: else fi; k++ } // STEP close.look
  :: else -> break
  od;
  k = 0
}

/* CloseIfUnheld: `won` */
inline close_if_unheld() {
  won = 0;
  do
  :: atomic { kind0 = kind; stamp0 = stamp }; // STEP close.load
     if :: kind0 != SHARED -> break :: else fi;
     look(NONE);
     if :: any -> break :: else fi;
     atomic { // STEP close.word
#ifdef BUG_CLOSE_WITHOUT_STAMP
       if :: kind == SHARED ->
#else
       if :: kind == SHARED && stamp == stamp0 ->
#endif
            if
            :: me != 0 -> becomes_owner(); kind = LOANED
            :: else -> assert(OWNERS == 0 && HOLDERS == 0); kind = FREE
            fi;
            owner = sid; stamp++; won = 1
       :: else
       fi
     };
     if :: won -> break :: else fi
  od;
  kind0 = 0; stamp0 = 0; any = 0
}

inline release() {
  won = 0;
  atomic { assert(kind == SHARED); stamp0 = stamp }; // STEP release.load
  look(mine);
  if
  :: !any ->
     atomic { // STEP release.word
       if
       :: kind == SHARED && stamp == stamp0 ->
          holds[me] = 0; becomes_owner(); kind = LOANED; owner = sid; stamp++; won = 1
       :: else
       fi
     }
  :: else
  fi;
  if
  :: won -> atomic { assert(slot[mine] == sid); slot[mine] = 0; mine = NONE } // STEP release.slot
  :: else ->
     atomic { assert(slot[mine] == sid); slot[mine] = 0; mine = NONE; holds[me] = 0 }; // STEP release.clear
     close_if_unheld()
  fi;
  stamp0 = 0; any = 0; won = 0
}

/* OpenChunk of generation `handle` */
inline open() {
  do
  :: atomic { kind0 = kind; stamp0 = stamp; won = 0 }; // STEP open.load
     if :: kind0 != SHARED -> break :: else fi;
     if :: gen != handle -> break :: else fi; // STEP open.generation
     k = GRANT_SLOTS;
     do
     :: k < SLOTS && claimed == NONE -> atomic { if :: slot[k] == 0 -> slot[k] = sid; claimed = k :: else fi; k++ } // STEP open.slot
     :: else -> break
     od;
     k = 0;
     if :: claimed == NONE -> break :: else fi;
     atomic { // STEP open.word
       if
       :: kind == SHARED && stamp == stamp0 ->
          assert(gen == handle && OWNERS == 0);
          stamp++; holds[me] = 1; mine = claimed; claimed = NONE; won = 1
       :: else
       fi
     };
     if :: won -> break :: else fi
  od;
  if
  :: claimed != NONE ->
     atomic { if :: slot[claimed] == sid -> slot[claimed] = 0 :: else fi; claimed = NONE }; // STEP open.undo
     close_if_unheld()
  :: else
  fi;
  kind0 = 0; stamp0 = 0; won = 0; handle = 0
}

proctype Client(byte me; byte sid; byte ops) { /* ops: how many are left */
  byte k, kind0, stamp0, handle;
  byte mine = NONE, claimed = NONE; /* slots */
  bit any, won;
  {
    do
    :: ops > 0 ->
       ops--;
       if
       :: !owns[me] && mine == NONE ->
          atomic { if :: kind == FREE -> becomes_owner(); kind = LOANED; owner = sid; stamp++ :: else fi } // STEP chunk.take
       :: owns[me] -> atomic { assert(kind == LOANED && owner == sid); owns[me] = 0; kind = FREE; owner = 0; stamp++ } // STEP flush.free
       :: owns[me] ->
          gen++; // STEP share.generation
          slot[0] = sid; // STEP share.slot
          atomic { assert(kind == LOANED && owner == sid); owns[me] = 0; holds[me] = 1; kind = SHARED; owner = 0; stamp++; mine = 0 } // STEP share.word
       :: !owns[me] && mine == NONE && gen > 0 -> /* any handle there ever was */
          handle = 1;
          do :: handle < gen -> handle++ :: break od;
          open()
       :: mine != NONE -> release()
       fi
    :: else -> break
    od;
    if :: mine != NONE -> release() :: else fi;
    if :: owns[me] -> atomic { owns[me] = 0; kind = FREE; owner = 0; stamp++ } :: else fi; // STEP flush.free
    atomic { done[me] = 1; ended++; ops = 0 } // MODEL
  } unless { dead[me] };
  ops = 0; k = 0; kind0 = 0; stamp0 = 0; handle = 0; mine = NONE; claimed = NONE; any = 0; won = 0
}

proctype Killer() {
  byte v;
  do
  :: kills < KILLS ->
     v = 1; do :: v < CLIENTS -> v++ :: break od;
     atomic { if :: !dead[v] && !done[v] -> dead[v] = 1; owns[v] = 0; holds[v] = 0; kills++ :: else fi; v = 0 } // MODEL
  :: restarts < RESTARTS -> restarts++; crash = 1 // MODEL
  :: break
  od
}

#define GONE(i) (dead[i] && !swept[i])
#if CLIENTS > 2
#define ANY_GONE (GONE(1) || GONE(2) || GONE(3))
#else
#define ANY_GONE (GONE(1) || GONE(2))
#endif

inline sweep_slots() {
  k = 0;
#ifndef BUG_SLOTS_NOT_CLEARED
  do
  :: k < SLOTS ->
     atomic { if :: slot[k] != 0 && gone[slot[k]] -> slot[k] = 0 :: else fi; k++ } // STEP sweep.slot
  :: else -> break
  od;
  k = 0
#endif
}
inline sweep_word() {
  atomic { kind0 = kind; stamp0 = stamp; holder = owner }; // STEP sweep.load
  if
  :: kind0 == LOANED && gone[holder] ->
     atomic { if :: kind == kind0 && stamp == stamp0 -> kind = FREE; owner = 0; stamp++ :: else fi } // STEP free.word
  :: kind0 == SHARED -> close_if_unheld()
  :: else
  fi;
  kind0 = 0; stamp0 = 0; holder = 0; won = 0
}

proctype Daemon() {
  byte k, kind0, stamp0, holder;
  byte me, sid; /* 0: what it closes is free */
  bit any, won, gone[CLIENTS + 1];
start:
  {
    do
    :: ANY_GONE ->
       atomic { k = 1; do :: k <= CLIENTS -> gone[k] = GONE(k); k++ :: else -> break od; k = 0 };
#ifdef BUG_SWEEP_WORD_BEFORE_SLOTS
       sweep_word(); sweep_slots();
#else
       sweep_slots(); sweep_word();
#endif
       atomic { // MODEL
         k = 1;
         do :: k <= CLIENTS -> if :: gone[k] -> swept[k] = 1; ended++ :: else fi; gone[k] = 0; k++ :: else -> break od;
         k = 0
       }
    :: ended == CLIENTS -> break
    od
  } unless { atomic { crash -> crash = 0; k = 0; kind0 = 0; stamp0 = 0; holder = 0; any = 0; won = 0 } }; // MODEL
  if :: ended < CLIENTS -> goto start :: else fi;
  assert(kind == FREE && OWNERS == 0 && HOLDERS == 0);
  assert(slot[0] == 0 && slot[1] == 0 && slot[2] == 0)
}

init {
  atomic {
    run Client(1, 1, OPS1); run Client(2, SECOND, OPS2);
#if CLIENTS > 2
    run Client(3, 3, OPS2);
#endif
    run Killer(); run Daemon()
  }
}
