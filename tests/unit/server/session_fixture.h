// A SessionManager over an instance of its own, with a clock that the test moves and a log it can
// read.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>

#include "server/death_watch.h"
#include "server/session_manager.h"
#include "tests/unit/server/test_instance.h"

namespace zerocp {

// Lines of the log while it lives; everything is logged.
class LogCapture {
 public:
  LogCapture() : before_(spdlog::default_logger()) {
    auto logger = std::make_shared<spdlog::logger>("test", std::make_shared<Sink>(*this));
    logger->set_level(spdlog::level::trace);
    spdlog::set_default_logger(logger);
  }
  ~LogCapture() { spdlog::set_default_logger(before_); }
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  std::string text() {
    std::lock_guard lock(mutex_);
    return text_;
  }
  bool Has(const std::string& wanted) { return text().find(wanted) != std::string::npos; }

 private:
  class Sink : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
   public:
    explicit Sink(LogCapture& log) : log_(log) {}

   protected:
    void sink_it_(const spdlog::details::log_msg& message) override {
      std::lock_guard lock(log_.mutex_);
      log_.text_.append(message.payload.data(), message.payload.size()).append("\n");
    }
    void flush_() override {}

   private:
    LogCapture& log_;
  };

  std::mutex mutex_;
  std::string text_;
  std::shared_ptr<spdlog::logger> before_;
};

class SessionFixture : public ::testing::Test {
 protected:
  explicit SessionFixture(bool any_user = false) : any_user_(any_user) {
    sessions_ = Open();
    const auto restored = sessions_->Restore();
    EXPECT_TRUE(restored.ok());
    EXPECT_EQ(*restored, 0u);
  }
  ~SessionFixture() override { std::filesystem::remove_all(base_); }

  std::unique_ptr<SessionManager> Open() {
    SessionManager::Options options;
    options.attach_socket = base_ + "/attach.sock";
    options.any_user = any_user_;
    options.own_uid = geteuid();
    options.now = [this] {
      return std::chrono::steady_clock::time_point(std::chrono::milliseconds(now_ms_.load()));
    };
    const std::string file = base_ + "/sessions";
    return std::make_unique<SessionManager>(
        instance_.core, shm::UniqueFd(open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)),
        options);
  }
  static Peer Self() { return {{getpid(), *StartTimeOf(getpid())}, geteuid()}; }
  shm::SessionEntry& Mirror(uint16_t id) { return instance_.core.manager->session_entry(id); }
  bool IsAttached(uint16_t id) {
    MutexLock lock(instance_.core.mutex);
    return instance_.core.attached.test(id);
  }

  LogCapture log_;
  const bool any_user_;
  const std::string base_ = NewDirectory("/tmp");
  std::atomic<int64_t> now_ms_{1'000'000};
  TestInstance instance_;
  std::unique_ptr<SessionManager> sessions_;
};

}  // namespace zerocp
