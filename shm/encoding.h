// The packed 64-bit words: what a chunk's word, a handle, a cell and a cursor are made of.
//
// Each is read and written whole, by one load, store or compare-exchange; the functions here are
// the only place that knows the bits. A word read from a segment may have been forged: Decode never
// traps, and whoever uses an index out of it checks it first.
#pragma once

#include <cstdint>

namespace zerocp::shm {

// The word of a chunk: kind:2 | owner:14 | stamp:47 | recalled:1

enum class Kind : uint8_t {
  kFree = 0,    // in the shared free list; anyone may take it
  kLoaned = 2,  // exclusively its owner's: written, cached, or sent and not taken
  kShared = 3,  // held by the sessions in its slots; no owner
};              // 1 is reserved

inline constexpr uint64_t kStampMask = (uint64_t{1} << 47) - 1;
// Of a word LOANED: somebody wants the chunk, if it is cached (session.h), in a revocable pool
// anybody, else the daemon, when it deletes the pool. Of no meaning to anybody but who compares the
// word whole; the next transition clears it.
inline constexpr uint64_t kRecalled = uint64_t{1} << 63;

struct Word {
  Kind kind;
  uint16_t owner;
  uint64_t stamp;  // +1 at each transition: no value of the word ever returns
};
constexpr uint64_t Encode(Word w) {
  return static_cast<uint64_t>(w.kind) | (uint64_t{w.owner} << 2) | (w.stamp << 16);
}
constexpr Word DecodeWord(uint64_t bits) {
  return {static_cast<Kind>(bits & 3), static_cast<uint16_t>((bits >> 2) & 0x3fff),
          (bits >> 16) & kStampMask};
}
constexpr Kind KindOf(uint64_t bits) { return static_cast<Kind>(bits & 3); }
// The word that follows `bits`: another kind and owner, the next stamp.
constexpr uint64_t NextWord(uint64_t bits, Kind kind, uint16_t owner) {
  return Encode({kind, owner, ((bits >> 16) + 1) & kStampMask});
}
constexpr bool IsOwned(uint64_t bits, Kind kind, uint16_t owner) {
  return (bits & 0xffff) == (static_cast<uint64_t>(kind) | (uint64_t{owner} << 2));
}

// A chunk's label: phase:8 | serial:24, or phase:8 | subscriber:8 | channel:16. What an owner does
// with a chunk of its own. Who takes cached chunks back goes by it, as does the deletion of a pool;
// else it is advice, for the double-release check and for statistics.

enum class ChunkPhase : uint8_t {
  kNone = 0,    // shared by handle
  kLoaned = 1,  // written; serial: differs with each loan by the same thread
  kCached = 2,  // free, in a cache; serial 0
  kSent = 4,    // published on `channel`, to `subscriber` alone or to several
  kTaken = 5,   // by `subscriber` of `channel`
};
// Set in the phases in which the owner may give an exclusive chunk back.
inline constexpr uint32_t kMayRelease = 1;

struct ChunkLabel {
  ChunkPhase phase;
  uint8_t subscriber;
  uint16_t channel;  // index in the channel table + 1; 0: none
};
constexpr uint32_t Encode(ChunkLabel l) {
  return static_cast<uint32_t>(l.phase) | (uint32_t{l.subscriber} << 8) |
         (uint32_t{l.channel} << 16);
}
constexpr uint32_t EncodeLabel(ChunkPhase phase, uint32_t serial) {
  return static_cast<uint32_t>(phase) | (serial << 8);
}
constexpr ChunkPhase PhaseOf(uint32_t label) { return static_cast<ChunkPhase>(label & 0xff); }
// Subscriber and channel: of kSent and kTaken only.
constexpr ChunkLabel DecodeLabel(uint32_t label) {
  return {PhaseOf(label), static_cast<uint8_t>(label >> 8), static_cast<uint16_t>(label >> 16)};
}

// A handle: pool:4 | incarnation:4 | chunk:24 | generation:32.

struct ChunkHandle {
  uint8_t pool;
  uint8_t incarnation;
  uint32_t chunk;
  uint32_t generation;
};
constexpr uint64_t Encode(ChunkHandle h) {
  return uint64_t{h.pool} | (uint64_t{h.incarnation} << 4) | (uint64_t{h.chunk} << 8) |
         (uint64_t{h.generation} << 32);
}
constexpr ChunkHandle DecodeHandle(uint64_t bits) {
  return {static_cast<uint8_t>(bits & 0xf), static_cast<uint8_t>((bits >> 4) & 0xf),
          static_cast<uint32_t>((bits >> 8) & 0xffffff), static_cast<uint32_t>(bits >> 32)};
}

// A cell of a lane: kind:2 | pool:4 | chunk:24 | valid:1 | bit:1 | tag:32.
// `valid` and `bit` are used in claims only: `bit` is the claimer's bit of
// the cursor (S or D) before the claim.

enum class CellKind : uint8_t {
  kNone = 0,    // published to nobody
  kMoved = 1,   // one subscriber: the chunk's word changes hands; tag = low 32 bits of the stamp
  kShared = 2,  // several: each takes over its slot; tag = generation
};

struct Cell {
  CellKind kind;
  uint8_t pool;
  uint32_t chunk;
  uint32_t tag;
};
constexpr uint64_t Encode(Cell c) {
  return static_cast<uint64_t>(c.kind) | (uint64_t{c.pool} << 2) | (uint64_t{c.chunk} << 6) |
         (uint64_t{c.tag} << 32);
}
// The part of a chunk's stamp that a cell carries.
constexpr uint32_t StampTag(uint64_t word) { return static_cast<uint32_t>(word >> 16); }
constexpr Cell DecodeCell(uint64_t bits) {
  return {static_cast<CellKind>(bits & 3), static_cast<uint8_t>((bits >> 2) & 0xf),
          static_cast<uint32_t>((bits >> 6) & 0xffffff), static_cast<uint32_t>(bits >> 32)};
}
inline constexpr uint64_t kClaimValid = uint64_t{1} << 30;
inline constexpr uint64_t kClaimBit = uint64_t{1} << 31;

// A cursor: S:1 | D:1 | epoch:14 | position:48. Each bit is flipped with a take that was claimed
// before, and by its one writer only: after a death it tells whether the claim was won.

inline constexpr uint64_t kCursorS = 1;  // flipped by a lossy subscriber with each take
inline constexpr uint64_t kCursorD = 2;  // flipped by the daemon with each take in its place
inline constexpr uint64_t kPositionMask = (uint64_t{1} << 48) - 1;
inline constexpr uint32_t kEpochMask = 0x3fff;

constexpr uint64_t CursorPosition(uint64_t cursor) { return cursor >> 16; }
constexpr uint32_t CursorEpoch(uint64_t cursor) {
  return static_cast<uint32_t>(cursor >> 2) & kEpochMask;
}
// The same S and D bits with another epoch and position.
constexpr uint64_t CursorWith(uint64_t cursor, uint32_t epoch, uint64_t position) {
  return (cursor & (kCursorS | kCursorD)) | (uint64_t{epoch & kEpochMask} << 2) |
         ((position & kPositionMask) << 16);
}
// The claim on `cell` by who owns `bit` (kCursorS or kCursorD) of the cursor that was read before.
constexpr uint64_t EncodeClaim(uint64_t cell, uint64_t cursor, uint64_t bit) {
  return (cell & ~(kClaimValid | kClaimBit)) | kClaimValid | ((cursor & bit) != 0 ? kClaimBit : 0);
}
// True if the claim's take moved the cursor: its owner's bit is another than it was before.
constexpr bool ClaimWasWon(uint64_t claim, uint64_t cursor, uint64_t bit) {
  return (claim & kClaimValid) != 0 && ((claim & kClaimBit) != 0) != ((cursor & bit) != 0);
}
// Messages between a position and a tail, modulo 2^48.
constexpr uint64_t QueuedCount(uint64_t tail, uint64_t position) {
  return (tail - position) & kPositionMask;
}

// A subscriber's epoch: open:1 | epoch:14.
// 0 is reserved: nobody. The next user of
// an index gets the next epoch.

inline constexpr uint32_t kSubscriberOpen = 1;
constexpr uint32_t EncodeSubscriber(uint32_t epoch, bool open) {
  return (epoch << 1) | (open ? 1 : 0);
}
constexpr uint32_t SubscriberEpoch(uint32_t bits) { return (bits >> 1) & kEpochMask; }
constexpr bool SubscriberIsOpen(uint32_t bits) { return (bits & kSubscriberOpen) != 0; }
constexpr uint32_t NextEpoch(uint32_t epoch) { return epoch == kEpochMask ? 1 : epoch + 1; }

static_assert(Encode(Word{Kind::kShared, 0x3fff, kStampMask}) == ~kRecalled);
static_assert(Encode(ChunkLabel{ChunkPhase{0xff}, 0xff, 0xffff}) == ~uint32_t{0});
static_assert(Encode(ChunkHandle{15, 15, 0xffffff, 0xffffffff}) == ~uint64_t{0});
static_assert((Encode(Cell{CellKind::kShared, 15, 0xffffff, 0}) & (kClaimValid | kClaimBit)) == 0);
static_assert(CursorPosition(CursorWith(3, kEpochMask, kPositionMask)) == kPositionMask &&
              CursorEpoch(CursorWith(3, kEpochMask, 0)) == kEpochMask);

}  // namespace zerocp::shm
