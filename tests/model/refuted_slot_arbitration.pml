/* A refuted design: publisher and subscriber settle by compare-exchange on the holder slot who has a
 * message, and whoever wins moves the cursor. A slot has no generation, so who stood still before its
 * compare-exchange erases or takes the reference of a later message in the same chunk.
 * The code settles everything on the cursor (lane.pml). No deaths; one chunk, two channels of one cell.
 */
#define PUBLISHER 1
byte gen, slot;              /* the grant slot of the chunk */
byte cell_gen, other_gen;
bit published, taken, other_published;
#define SUBSCRIBER 2
#define OTHER 3

proctype Publisher() {
  gen++; slot = PUBLISHER; cell_gen = gen; published = 1;
  if
  :: atomic { slot == PUBLISHER -> slot = 0 }; /* drops it: the chunk is its own again */
     gen++; slot = PUBLISHER; other_gen = gen; other_published = 1
  :: skip
  fi
}

proctype Subscriber() {
  byte g, s;
  published;
  g = cell_gen; s = slot;
  if
  :: s == PUBLISHER && gen == g ->
     atomic { if :: slot == PUBLISHER -> slot = SUBSCRIBER; taken = 1 :: else fi };
     if :: taken -> assert(gen == g) :: else fi
  :: else
  fi
}

init { atomic { run Publisher(); run Subscriber() } }
