/* The same in C: words from one program to another.
 *
 *   hello receive       prints each word until the sender is done
 *   hello send WORD...  sends them
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zerocp.h>

/* Every call that can fail returns a code; the sentence that goes with it is zerocp_last_error(). */
static void must(zerocp_code code) {
  if (code == ZEROCP_OK) return;
  fprintf(stderr, "%s: %s\n", zerocp_code_name(code), zerocp_last_error());
  exit(1);
}

static int send_words(zerocp_client* client, char** words, int count) {
  zerocp_publisher* publisher;
  must(zerocp_join_publisher(client, "words", NULL, &publisher));
  must(zerocp_publisher_wait(publisher, 1, ZEROCP_FOREVER, NULL));
  for (int i = 0; i < count; ++i) {
    zerocp_loan loan; /* a chunk of shared memory, written in place */
    must(zerocp_publisher_loan(publisher, strlen(words[i]), ZEROCP_FOREVER, &loan));
    memcpy(loan.data, words[i], loan.size);
    /* To every subscriber, or to nobody: after an error the loan is still ours. */
    must(zerocp_publisher_publish(publisher, &loan, ZEROCP_FOREVER, NULL));
  }
  zerocp_publisher_close(publisher);
  return 0;
}

static int receive_words(zerocp_client* client) {
  /* Options begin with their size: a newer library knows which fields an older program has. */
  zerocp_join_options options = {.struct_size = sizeof(options), .queue_capacity = 4};
  zerocp_subscriber* subscriber;
  must(zerocp_join_subscriber(client, "words", &options, &subscriber));
  zerocp_sample sample;
  zerocp_code code;
  while ((code = zerocp_subscriber_take(subscriber, ZEROCP_FOREVER, &sample)) == ZEROCP_OK) {
    printf("%.*s\n", (int)sample.size, (const char*)sample.data);
    zerocp_sample_release(&sample); /* its chunk can be used again */
  }
  zerocp_subscriber_close(subscriber);
  if (code != ZEROCP_END_OF_STREAM) must(code); /* the sender died, an operator intervened, ... */
  return 0;
}

int main(int argc, char** argv) {
  const int sends = argc > 2 && strcmp(argv[1], "send") == 0;
  if (!sends && (argc != 2 || strcmp(argv[1], "receive") != 0))
    return puts("usage: hello send WORD... | receive"), 2;
  zerocp_client_options options = {.struct_size = sizeof(options), .name = "hello"};
  zerocp_client* client;
  must(zerocp_connect(&options, &client));
  const int status = sends ? send_words(client, argv + 2, argc - 2) : receive_words(client);
  zerocp_client_close(client);
  return status;
}
