/* A refuted design: the daemon takes a living subscriber off by draining as for a dead one, while the
 * subscriber stands still in the middle of a take. Its plain store then hits a later message.
 * The code stops it first, and leaves the message at its cursor alone (lane.pml, STOP).
 */
#define PUBLISHER 1
#define SUBSCRIBER 2
byte gen = 1, slot = PUBLISHER; /* one message waits */
byte cursor, tail = 1;

proctype Subscriber() {
  if
  :: cursor < tail ->
     if
     :: slot == PUBLISHER && gen == 1 -> slot = SUBSCRIBER; cursor++; assert(gen == 1); slot = 0
     :: else
     fi
  :: else
  fi
}

proctype DaemonThenPublisher() {
  if
  :: atomic { slot == PUBLISHER && gen == 1 -> slot = 0 };
     cursor = 1;
     gen = 2; slot = PUBLISHER; /* sent anew, to another with the same index */
     assert(slot == PUBLISHER)
  :: else
  fi
}

init { atomic { run Subscriber(); run DaemonThenPublisher() } }
