// What the processes of torture_test know of each other: a page of atomics that all of them map,
// and that the product knows nothing of.
//
// Invariants. M1: a chunk that an application may write is marked with its process, and one that it
// may read counts there, from after it got it until before it gives it up. So a second mark by
// another process that lives is a chunk that was handed out twice. M2: what a process has marked is
// void once its incarnation is not that of its slot any more; the slot is changed before the kill.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace zerocp::torture {

inline constexpr size_t kProcesses = 8;
inline constexpr size_t kWorkers = 2;  // threads of each that work at once

inline constexpr std::array kPools = {"small", "large", "tight", "churn"};
inline constexpr size_t kChurn = 3;  // comes and goes
struct ChannelSpec {
  const char* name;
  size_t pool;
  uint64_t history;
  bool drops;
};
inline constexpr size_t kFleeting = 4;  // as well, under its members
inline constexpr std::array kChannels = {
    ChannelSpec{"wait", 0, 0, false}, ChannelSpec{"wait-kept", 1, 4, false},
    ChannelSpec{"drop", 1, 0, true}, ChannelSpec{"drop-kept", 0, 4, true},
    ChannelSpec{"fleeting", 1, 2, false}};

// What the test tells all workers, `round * kPhases + phase` in Page::command; each answers with
// the same number in Worker::answer.
enum Phase : uint32_t { kRun, kPause, kDrain, kReport, kPhases };

enum Counter : size_t {
  kLoans,
  kExhausted,  // loans that found no chunk
  kShares,
  kOpens,
  kStale,  // handles whose chunk was gone
  kPublishes,
  kFullQueues,  // publishes that timed out
  kTakes,
  kMissed,
  kJoins,
  kThreads,  // that ended
  kDetaches,
  kDeletions,   // of channels, as members saw them
  kDaemonAway,  // control calls that found no daemon
  kCounters
};
inline constexpr std::array<const char*, kCounters> kCounterNames = {
    "loans", "exhausted", "shares", "opens",   "stale",    "publishes", "full queues",
    "takes", "missed",    "joins",  "threads", "detaches", "deletions", "without a daemon"};

enum Step : uint32_t {
  kConnect,
  kLoan,
  kReleaseLoan,
  kShare,
  kOpen,
  kPublish,
  kTake,
  kReleaseSample,
  kJoin,
  kLeave,
  kThread,
  kAnswer,
  kSteps
};
inline constexpr std::array<const char*, kSteps> kStepNames = {
    "connect", "loan",  "release of a loan", "share", "open",
    "publish", "take",  "release a sample",  "join",  "leave",
    "thread",  "answer"};

struct Report {  // what a worker has, by pool
  std::array<std::atomic<uint64_t>, kPools.size()> writing;
  std::array<std::atomic<uint64_t>, kPools.size()> reading;
  std::atomic<uint64_t> history;  // messages that its publishers keep
};

struct alignas(64) Worker {
  std::atomic<uint64_t> operation_count;
  std::atomic<uint32_t> step;  // what it is doing: index in kStepNames
  std::atomic<uint32_t> answer;
  Report report;
};

struct Slot {
  std::atomic<uint32_t> incarnation;  // of the process that lives here, % kProcesses its slot; 0
  std::array<Worker, kWorkers> workers;
  std::array<std::atomic<uint64_t>, kCounters> counters;
};

// A publisher, in the entry of its number.
struct PublisherEntry {
  std::atomic<uint64_t> number;     // stored last; 0 while the entry is written
  std::atomic<uint64_t> channel;    // index in kChannels
  std::atomic<uint64_t> begun;      // number of the last message that it began to publish
  std::atomic<uint64_t> completed;  // and of the last whose call returned
};
inline constexpr size_t kPublisherEntries = 16384;

// A shared chunk that anyone may open; `serial` is 0 while it is written. Each worker writes
// kBoardEntries of its own.
inline constexpr size_t kBoardEntries = 4;
struct BoardEntry {
  std::atomic<uint64_t> serial;
  std::atomic<uint64_t> chunk;  // of the handle
};

struct alignas(64) Mark {
  std::atomic<uint32_t> owner;                            // incarnation that may write; 0: nobody
  std::array<std::atomic<uint32_t>, kProcesses> readers;  // incarnation:24 | count:8
};
inline constexpr size_t kMarkBytes = 256;  // of the chunk segment; no chunk is smaller
inline constexpr size_t kMarks = (64u << 20) / kMarkBytes;

struct Page {
  std::atomic<uint32_t> command;
  std::atomic<uint64_t> publisher_count;
  std::array<Slot, kProcesses> slots;
  std::array<PublisherEntry, kPublisherEntries> publishers;
  std::array<BoardEntry, kProcesses * kWorkers * kBoardEntries> board;
  std::array<Mark, kMarks> marks;

  bool Lives(uint32_t incarnation) const {
    return slots[incarnation % kProcesses].incarnation.load() == incarnation;
  }
};

// The client: `argv` is {program, "--torture", runtime directory, descriptor of the page,
// incarnation, seed}. Works until SIGTERM, then gives everything back. 0; otherwise stderr says
// what was wrong.
int ClientMain(char** argv);
// Maps the page behind `fd`; aborts if that is not to be had.
Page* MapPage(int fd);

}  // namespace zerocp::torture
