// The C++20 interface of libzerocp: header-only, over the C interface of <zerocp.h>.
//
//   auto client = zerocp::Client::Connect();
//   if (!client) { std::cerr << client.message() << '\n'; return 1; }
//   auto publisher = client->JoinAsPublisher("frames");       // and check it in the same way
//   auto loan = publisher->NewLoan(width * height);
//   Render(loan->data());                                      // written in place, once
//   publisher->Publish(*loan);
//
//   auto subscriber = client->JoinAsSubscriber("frames");
//   for (auto sample = subscriber->Wait(); sample; sample = subscriber->Wait()) {
//     Show(sample->data());                                    // read in place
//   }
#pragma once

#include <zerocp/client.h>      // IWYU pragma: export
#include <zerocp/handle.h>      // IWYU pragma: export
#include <zerocp/loan.h>        // IWYU pragma: export
#include <zerocp/publisher.h>   // IWYU pragma: export
#include <zerocp/result.h>      // IWYU pragma: export
#include <zerocp/subscriber.h>  // IWYU pragma: export
#include <zerocp/typed.h>       // IWYU pragma: export
