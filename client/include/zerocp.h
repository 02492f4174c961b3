/* zerocp.h - the C interface of libzerocp.so.1: large buffers from process to process without
 * copies.
 *
 * What. A client attaches to the daemon of an instance (zerocpd) and maps its memory. A loan is the
 * right to write one chunk of it; publishing a loan to a channel turns it into a message, which
 * every subscriber of the channel takes as a sample, the right to read the same bytes in place.
 * Loan, publish, take and release make no system call and no copy, take no lock, allocate no
 * memory, and need no daemon: after a thread's first call, while chunks are there, while nobody
 * joins or leaves the channel, and unless a peer sleeps and is to be woken. (A session whose loans
 * and samples are limited, zerocpd --max-chunks-per-session, counts them under a lock.)
 *
 * Threads. A zerocp_client may be used by any number of threads at once. A publisher, a subscriber,
 * a loan and a sample belong to one thread at a time; they may move from thread to thread.
 *
 * Lifetime. Loans and samples keep the memory mapped: they stay valid, and can be released, after
 * their client, publisher and subscriber were closed. The library detaches from the daemon when the
 * last of all these is gone. What a process still has when it ends, in whatever way, the daemon
 * takes back.
 *
 * The daemon. When it is stopped or killed, all but control calls go on. Once it is back the
 * library reconnects by itself: in the next control call, and, within half a second, in calls that
 * wait. If it came back with other segments, both fail with ZEROCP_INSTANCE_LOST: what the client
 * has can be read and released, and reaches nobody any more. When an operator ends the session,
 * what is new fails with ZEROCP_DETACHED: release, close, or connect again. A program that only
 * ever polls learns both from zerocp_client_state.
 *
 * fork. The child of a fork does not have the memory. There every call on what the parent made
 * fails with ZEROCP_UNAVAILABLE, closing and releasing do nothing, and the bytes of its loans and
 * samples must not be touched. Connect again in the child.
 *
 * Errors. Calls that can fail return a zerocp_code, chosen by what the caller should do. For each
 * code but ZEROCP_TIMEOUT the sentence that goes with it, with names and numbers, is
 * zerocp_last_error(). Out-parameters are only written on success, unless their function says
 * otherwise.
 *
 * Times are in nanoseconds on the monotonic clock: 0 never waits, ZEROCP_FOREVER always does.
 * Sizes are in bytes. Strings are UTF-8, end with a NUL, and are copied by the call.
 *
 * The library starts no thread but one for each subscriber whose zerocp_subscriber_fd is asked for,
 * which blocks all signals and ends when the subscriber is closed. It installs no signal handler,
 * and links libc and libstdc++ only.
 */
#ifndef ZEROCP_H_
#define ZEROCP_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__has_attribute)
#if __has_attribute(noplt)
#define ZEROCP_API __attribute__((visibility("default"), nothrow, noplt))
#endif
#endif
#ifndef ZEROCP_API
#define ZEROCP_API __attribute__((visibility("default"), nothrow))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Codes. */

/* One of the values below. Values are never reused; later versions may add some. */
typedef int32_t zerocp_code;

enum {
  ZEROCP_OK = 0,
  ZEROCP_TIMEOUT = 1,        /* nothing came before the deadline: try again */
  ZEROCP_END_OF_STREAM = 2,  /* the last publisher closed in order and nothing is left to take */
  ZEROCP_PUBLISHER_DIED = 3, /* the same, but a publisher died instead of closing */
  ZEROCP_DETACHED = 4,       /* an operator detached the subscriber, or ended the session; the text
                                says which */
  ZEROCP_INSTANCE_LOST = 5,  /* the daemon came back with other segments: connect again */
  ZEROCP_EXHAUSTED = 6,      /* the pool has no free chunk: wait, release, or make it larger */
  ZEROCP_TOO_LARGE = 7,      /* more bytes than the pool's chunks have */
  ZEROCP_HELD_LIMIT = 8,     /* as many loans or samples are held as may be: release one */
  ZEROCP_HOLDERS_FULL = 9,   /* the chunk has as many holders as its pool allows */
  ZEROCP_NOT_FOUND = 10,     /* no channel or pool of that name */
  ZEROCP_TYPE_MISMATCH = 11, /* the channel carries another message type */
  ZEROCP_STALE = 12,         /* the handle's chunk was released or used again since */
  ZEROCP_DENIED = 13,        /* refused: token, user, or file permissions */
  ZEROCP_INVALID = 14,       /* an argument is wrong; the text says which */
  ZEROCP_UNAVAILABLE = 15,   /* no daemon, or its connection is lost, or this is a fork's child */
  ZEROCP_VERSION_MISMATCH =
      16,              /* daemon and library have other memory layouts; the text names both */
  ZEROCP_DAMAGED = 17, /* shared memory holds something impossible; the object was given up */
  ZEROCP_LIMIT = 18,   /* a table is full: sessions, publishers, subscribers; or the process may not
                          map or open so much; the text says which */
  ZEROCP_CHANNEL_DELETED = 19 /* by an operator; what waited was taken before */
};

/* "TIMEOUT" for ZEROCP_TIMEOUT and so on; "UNKNOWN" for others. Static storage. */
ZEROCP_API const char* zerocp_code_name(zerocp_code code);

/* What happened in the last call of this thread that failed with another code than ZEROCP_TIMEOUT:
 * one sentence for people, never NULL, valid until such a call of this thread. */
ZEROCP_API const char* zerocp_last_error(void);

/* Version of the library, "MAJOR.MINOR.PATCH". Static storage. */
ZEROCP_API const char* zerocp_version(void);

#define ZEROCP_FOREVER ((int64_t)-1)
#define ZEROCP_USER_HEADER_BYTES 64
#define ZEROCP_TOKEN_BYTES 32
#define ZEROCP_MAX_POOLS 16

/* Client. */

typedef struct zerocp_client zerocp_client;

/* Set struct_size to sizeof(zerocp_client_options) and the rest to 0 or to what is wanted. */
typedef struct zerocp_client_options {
  size_t struct_size;
  const char* name; /* label that operators see, at most 63 bytes; NULL: the program's name */
  const char* runtime_dir; /* the daemon's directory; NULL: $ZEROCP_RUNTIME_DIR if it is set, else
                              the first of /run/zerocp, $XDG_RUNTIME_DIR/zerocp, /tmp/zerocp-<uid>
                              where a daemon answers */
  int32_t read_only; /* 1: payloads are mapped for reading only: subscribe and open, never loan or
                        publish. The kernel holds other users than the daemon's to it. */
} zerocp_client_options;

/* Attaches to a daemon on this machine. `options` may be NULL. Close the client with
 * zerocp_client_close.
 * UNAVAILABLE: no daemon answers; the text lists every path tried. VERSION_MISMATCH. DENIED. LIMIT.
 * INVALID. Blocks for at most 10 s with each daemon that does not answer.
 * Under mlockall(MCL_FUTURE) it locks the pools that exist, which count against RLIMIT_MEMLOCK
 * (LIMIT names the bytes); what is created later, and the addresses reserved for it, are not
 * locked. mlockall(MCL_CURRENT) is for before: after, it would lock all of them. */
ZEROCP_API zerocp_code zerocp_connect(const zerocp_client_options* options, zerocp_client** client);

/* Attaches with a token that CreateSession gave over gRPC, on the attach socket that it named.
 * `options->runtime_dir` is not used. The client is read-only unless the session was created with
 * PAYLOAD_ACCESS_READ_WRITE. DENIED: the token is wrong, used, or older than 10 s.
 * Others as zerocp_connect. */
ZEROCP_API zerocp_code zerocp_attach(const uint8_t token[ZEROCP_TOKEN_BYTES],
                                     const char* socket_path, const zerocp_client_options* options,
                                     zerocp_client** client);

/* Gives the client up. Publishers, subscribers, loans and samples made with it go on. NULL:
 * nothing. */
ZEROCP_API void zerocp_client_close(zerocp_client* client);

/* What the daemon is to the client now: OK; UNAVAILABLE: it is away, what is joined goes on (also
 * after fork, where nothing does); INSTANCE_LOST and DETACHED, see above: for good. Reconnects if
 * the daemon is back; a system call or two otherwise. */
ZEROCP_API zerocp_code zerocp_client_state(zerocp_client* client);

/* Where the chunks of one pool are in this process. */
typedef struct zerocp_region {
  void* data;    /* a multiple of 64, of the page size if the pool aligns its chunks so */
  size_t size;   /* bytes, of all chunks that exist */
  char pool[64]; /* its name */
} zerocp_region;

/* For who registers memory with a device (cudaHostRegister, ibv_reg_mr): where the chunks of all
 * pools are, also of those that are being deleted, in no order. Writes their number to `count` and
 * the first `capacity` (ZEROCP_MAX_POOLS is enough) of them to `regions`; and to `epoch` a number
 * that grows whenever a pool is created, grown or deleted. With a capacity of 0 the others may be
 * NULL: `epoch` alone costs some tens of nanoseconds. The regions are those of that epoch, or later
 * ones: if the epoch is another when the registration is done, ask again.
 * A pool that grows keeps its address. The addresses of one that was deleted may be another's, with
 * other memory behind them: unregister before DeletePool, or when the epoch has changed. For
 * read-only clients the memory can only be read. INSTANCE_LOST. UNAVAILABLE after fork. */
ZEROCP_API zerocp_code zerocp_client_regions(zerocp_client* client, zerocp_region* regions,
                                             size_t capacity, size_t* count, uint64_t* epoch);

/* Loans and samples. */

/* The right to write one chunk. Allocated by the caller, filled in by the call that makes the loan;
 * copying the structure does not copy the right. The bytes are not cleared. */
typedef struct zerocp_loan {
  void* data;        /* aligned as the pool says, at least to 64 bytes */
  size_t size;       /* bytes that will be published; set it freely up to `capacity` */
  size_t capacity;   /* bytes asked for */
  void* user_header; /* ZEROCP_USER_HEADER_BYTES for the caller: shape, time stamp, trace id */
  void* opaque[3];   /* the library's; opaque[0] is NULL if this is no loan */
  uint64_t opaque_chunk;
} zerocp_loan;

/* The right to read one chunk. As zerocp_loan. Other processes may read the same bytes. */
typedef struct zerocp_sample {
  const void* data;
  size_t size;
  uint64_t sequence; /* the message's number, counted per publisher from 1; 0: not published */
  const void* user_header; /* ZEROCP_USER_HEADER_BYTES from the publisher */
  uint64_t missed_before;  /* messages that the subscriber lost between its last sample and this */
  void* opaque[3];         /* the library's; opaque[0] is NULL if this is no sample */
  uint64_t opaque_chunk;
} zerocp_sample;

/* Names a shared chunk in any process of the instance. Not a secret; send it by any means. */
typedef struct zerocp_handle {
  uint64_t instance;
  uint64_t chunk;
} zerocp_handle;

/* Loans a chunk of the pool named `pool`, without a channel.
 * EXHAUSTED: no chunk came free in time; the text names the largest holders. A pool that grows by
 * itself (auto_grow) is waited for up to 100 ms, whatever `timeout_ns` is. TOO_LARGE: `bytes` is
 * more than a chunk has. HELD_LIMIT, at once: the session has as many loans and samples as the
 * daemon allows (--max-chunks-per-session). NOT_FOUND: also a pool that is being deleted. DENIED:
 * the client is read-only. UNAVAILABLE after fork. */
ZEROCP_API zerocp_code zerocp_client_loan(zerocp_client* client, const char* pool, size_t bytes,
                                          int64_t timeout_ns, zerocp_loan* loan);

/* Gives a loan back unpublished. Nothing if `loan` is none. */
ZEROCP_API void zerocp_loan_release(zerocp_loan* loan);

/* Gives the right to write up and keeps the right to read: `loan` is none afterwards, `sample` has
 * loan->size bytes and can be named by zerocp_sample_handle.
 * INVALID: not a loan, or loan->size is more than its capacity. UNAVAILABLE after fork. */
ZEROCP_API zerocp_code zerocp_loan_share(zerocp_loan* loan, zerocp_sample* sample);

/* The right to read the chunk that `handle` names, while somebody holds it.
 * STALE: everybody released it, or it belongs to another instance. HOLDERS_FULL. HELD_LIMIT.
 * UNAVAILABLE after fork. */
ZEROCP_API zerocp_code zerocp_client_open(zerocp_client* client, zerocp_handle handle,
                                          zerocp_sample* sample);

/* A handle of the sample's chunk, good for as long as somebody holds it: keep the sample until the
 * receiver has opened it. If a read-only client was alone in taking the message, the receiver's
 * sample has another `sequence`. INVALID: not a sample. UNAVAILABLE after fork. */
ZEROCP_API zerocp_code zerocp_sample_handle(zerocp_sample* sample, zerocp_handle* handle);

/* Gives a sample back. Nothing if `sample` is none. */
ZEROCP_API void zerocp_sample_release(zerocp_sample* sample);

/* Channels. */

typedef struct zerocp_publisher zerocp_publisher;
typedef struct zerocp_subscriber zerocp_subscriber;

/* Set struct_size to sizeof(zerocp_join_options) and the rest to 0 or to what is wanted. */
typedef struct zerocp_join_options {
  size_t struct_size;
  const char* message_type; /* at most 128 bytes; must equal the channel's if both are set */
  int32_t queue_capacity;   /* subscribers: messages of one publisher that may wait, 1 (the latest
                               only) to the channel's; 0: the channel's */
  int32_t lossy; /* subscribers: not 0: on a waiting channel too, lose the oldest messages instead
                    of making publishers wait: for taps and viewers */
  size_t message_bytes; /* size of one message, if all have the same; 0: any. TOO_LARGE: more than
                           the channel's chunks have */
  size_t message_alignment; /* what the messages' addresses must be a multiple of; 0: 64, as always.
                               INVALID: the channel's pool aligns to less; the text says how to make
                               one that does not */
} zerocp_join_options;

/* Joins a channel. `options` may be NULL. NOT_FOUND, TYPE_MISMATCH, TOO_LARGE, LIMIT, UNAVAILABLE;
 * INVALID: also a longer queue than the channel's. DENIED: a read-only client cannot publish.
 * A message published after zerocp_join_subscriber returned reaches the subscriber, or is counted
 * as missed. */
ZEROCP_API zerocp_code zerocp_join_publisher(zerocp_client* client, const char* channel,
                                             const zerocp_join_options* options,
                                             zerocp_publisher** publisher);
ZEROCP_API zerocp_code zerocp_join_subscriber(zerocp_client* client, const char* channel,
                                              const zerocp_join_options* options,
                                              zerocp_subscriber** subscriber);

/* Leaves the channel and frees the object; NULL: nothing. What a publisher sent stays deliverable,
 * then its subscribers see END_OF_STREAM. What waited for a subscriber is let go; samples it took
 * stay. */
ZEROCP_API void zerocp_publisher_close(zerocp_publisher* publisher);
ZEROCP_API void zerocp_subscriber_close(zerocp_subscriber* subscriber);

/* Largest message the channel carries: the chunk size of its pool. */
ZEROCP_API size_t zerocp_publisher_max_bytes(const zerocp_publisher* publisher);

/* Loans a chunk of the channel's pool. Errors as zerocp_client_loan. */
ZEROCP_API zerocp_code zerocp_publisher_loan(zerocp_publisher* publisher, size_t bytes,
                                             int64_t timeout_ns, zerocp_loan* loan);

typedef struct zerocp_published {
  int32_t delivered; /* subscribers that will see the message */
  int32_t dropped;   /* older messages that lossy subscribers lost to make room for it */
} zerocp_published;

/* Sends loan->size bytes and the user header to every subscriber, or to nobody. Waits for as long
 * as a subscriber's queue is full; those of lossy subscribers and of a channel that drops lose
 * their oldest messages instead. On success `loan` is none afterwards; `published` may be NULL.
 * On every error the caller still has the loan and nobody got the message, so that a retry repeats
 * nothing. TIMEOUT: a queue stayed full. CHANNEL_DELETED. DETACHED. INVALID: not a loan of this
 * publisher's client, loan->size is more than its capacity, or its pool allows fewer holders than
 * the channel subscribers. UNAVAILABLE after fork. */
ZEROCP_API zerocp_code zerocp_publisher_publish(zerocp_publisher* publisher, zerocp_loan* loan,
                                                int64_t timeout_ns, zerocp_published* published);

/* Waits until the channel has at least `count` subscribers; `present` (may be NULL) is how many it
 * has, also on TIMEOUT. CHANNEL_DELETED. DETACHED. UNAVAILABLE after fork. */
ZEROCP_API zerocp_code zerocp_publisher_wait(zerocp_publisher* publisher, int32_t count,
                                             int64_t timeout_ns, int32_t* present);

/* Takes the next message. TIMEOUT: none came. END_OF_STREAM or PUBLISHER_DIED: every publisher that
 * was there is gone and nothing is left; said once, then the call waits for the next publisher.
 * DETACHED. CHANNEL_DELETED. DAMAGED: what a publisher sent is impossible; it is not listened to
 * any more. HELD_LIMIT: the subscriber holds as many samples as its channel allows
 * (max_held_count), or the session as many loans and samples as the daemon does
 * (--max-chunks-per-session). Said at once, whatever `timeout_ns` is and whether or not a message
 * is there; the queue stays as it is. Samples count until they are released, by whatever thread.
 * UNAVAILABLE after fork. */
ZEROCP_API zerocp_code zerocp_subscriber_take(zerocp_subscriber* subscriber, int64_t timeout_ns,
                                              zerocp_sample* sample);

/* A descriptor for poll, epoll or an event loop, the same in every call; the subscriber's, closed
 * with it. The first call starts a thread. It is readable when zerocp_subscriber_take without
 * waiting would return anything but TIMEOUT, a code of the daemon within half a second, and perhaps
 * for nothing. It stays so until such a take has returned TIMEOUT, END_OF_STREAM or
 * PUBLISHER_DIED; what comes next is a new edge (EPOLLET). Hence the loop: poll for reading, then
 * take with a timeout of 0 until one of the three, release what was taken, poll again; after
 * HELD_LIMIT, release first. A take that waits makes it readable, and so does a publisher that
 * joins or leaves: who takes no more takes it out of the loop. Never read, write or close it.
 * LIMIT: no descriptor or no thread is to be had. UNAVAILABLE after fork. */
ZEROCP_API zerocp_code zerocp_subscriber_fd(zerocp_subscriber* subscriber, int32_t* fd);

#ifdef __cplusplus
}
#endif

#endif /* ZEROCP_H_ */
