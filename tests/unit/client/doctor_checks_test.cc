// What `zerocp doctor` finds, on machines that are made of files.
#include "client/cli/doctor_checks.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

namespace zerocp::cli {
namespace {

using State = Finding::State;

bool Has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class DoctorChecks : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/zerocp-doctor.XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    patient_.root = name;
    patient_.daemon_pid = 77;
  }
  void TearDown() override { std::filesystem::remove_all(patient_.root); }
  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(patient_.root + path).parent_path());
    std::ofstream(patient_.root + path) << text;
  }
  void Limits(const std::string& hard) {
    Write("/proc/77/limits",
          "Limit                     Soft Limit           Hard Limit           Units\n"
          "Max processes             7                    8                    processes\n"
          "Max open files            9                    " +
              hard + "       files\n");
  }

  Patient patient_;
};

TEST_F(DoctorChecks, OthersMustNotWriteToTheRuntimeDirectory) {
  EXPECT_EQ(CheckRuntimeDir(patient_).state, State::kOk);
  patient_.runtime_dir = patient_.root;
  EXPECT_EQ(CheckRuntimeDir(patient_).state, State::kOk);
  for (const mode_t mode : {0720u, 0702u, 0777u}) {
    ASSERT_EQ(chmod(patient_.root.c_str(), mode), 0);
    EXPECT_EQ(CheckRuntimeDir(patient_).state, State::kChange) << mode;
  }
  patient_.runtime_dir = patient_.root + "/none";
  EXPECT_TRUE(Has(CheckRuntimeDir(patient_).found, "No such file"));
  Write("/file", "");
  patient_.runtime_dir = patient_.root + "/file";
  EXPECT_TRUE(Has(CheckRuntimeDir(patient_).found, "is no directory"));
}

TEST_F(DoctorChecks, SegmentsNeedATmpfs) {
  EXPECT_FALSE(Has(CheckSegmentSpace(patient_).found, "no tmpfs"));
  patient_.segment_dir = "/proc";
  EXPECT_EQ(CheckSegmentSpace(patient_).state, State::kChange);
  EXPECT_TRUE(Has(CheckSegmentSpace(patient_).found, "no tmpfs"));
  patient_.segment_dir = patient_.root + "/none";
  EXPECT_EQ(CheckSegmentSpace(patient_).state, State::kChange);
}

TEST_F(DoctorChecks, AMemoryLimitThatLeavesNothingIsNamed) {
  Write("/proc/meminfo", "MemTotal: 4194304 kB\nMemAvailable: 2097152 kB\n");
  EXPECT_EQ(CheckMemory(patient_).state, State::kOk);
  Write("/proc/self/cgroup", "0::/a\n");
  Write("/sys/fs/cgroup/a/memory.max", "33554432\n");
  Write("/sys/fs/cgroup/a/memory.current", "0\n");
  const Finding finding = CheckMemory(patient_);
  EXPECT_EQ(finding.state, State::kChange);
  EXPECT_TRUE(Has(finding.found, "/sys/fs/cgroup/a")) << finding.found;
  EXPECT_TRUE(Has(finding.change, "MemoryMax=")) << finding.change;
}

TEST_F(DoctorChecks, OpenFilesAreThoseOfTheDaemon) {
  Limits("20000");
  EXPECT_EQ(CheckOpenFiles(patient_).state, State::kOk);
  Limits("unlimited");
  EXPECT_EQ(CheckOpenFiles(patient_).state, State::kOk);
  Limits("1024");
  EXPECT_EQ(CheckOpenFiles(patient_).state, State::kNote);
  EXPECT_TRUE(Has(CheckOpenFiles(patient_).found, "zerocpd: 1024, enough for 480 clients of 4096"))
      << CheckOpenFiles(patient_).found;
  EXPECT_TRUE(Has(CheckOpenFiles(patient_).change, "LimitNOFILE=8256"));
  patient_.max_sessions = 400;
  EXPECT_EQ(CheckOpenFiles(patient_).state, State::kOk);
  Limits("100");
  EXPECT_EQ(CheckOpenFiles(patient_).state, State::kChange);
}

TEST_F(DoctorChecks, LogindRemovesTheSegmentsOfPeopleUnlessItIsToldNotTo) {
  patient_.daemon_uid = 1000;
  EXPECT_EQ(CheckRemoveIpc(patient_).state, State::kOk);  // no systemd
  Write("/run/systemd/system/x", "");
  EXPECT_EQ(CheckRemoveIpc(patient_).state, State::kChange);
  Write("/etc/systemd/logind.conf", "[Login]\n#RemoveIPC=no\n");
  EXPECT_EQ(CheckRemoveIpc(patient_).state, State::kChange);
  Write("/etc/systemd/logind.conf", "[Login]\nRemoveIPC=no\n");
  EXPECT_EQ(CheckRemoveIpc(patient_).state, State::kOk);
  Write("/etc/systemd/logind.conf.d/10-on.conf", "[Login]\nRemoveIPC=yes\n");
  EXPECT_EQ(CheckRemoveIpc(patient_).state, State::kChange);
  Write("/etc/systemd/logind.conf.d/20-off.conf", "[Login]\nRemoveIPC=no\n");
  EXPECT_EQ(CheckRemoveIpc(patient_).state, State::kOk);
  std::filesystem::remove_all(patient_.root + "/etc");
  patient_.daemon_uid = 0;
  EXPECT_EQ(CheckRemoveIpc(patient_).state, State::kOk);
}

TEST_F(DoctorChecks, HugePagesAreThoseOfTheMountWithTheSegments) {
  Write("/proc/self/mounts", "tmpfs / tmpfs rw,huge=always 0 0\n");
  EXPECT_EQ(CheckHugePages(patient_).state, State::kOk);
  Write("/proc/self/mounts",
        "tmpfs / tmpfs rw,huge=always 0 0\ntmpfs /dev/shm tmpfs rw,relatime 0 0\n");
  EXPECT_EQ(CheckHugePages(patient_).state, State::kNote);
  Write("/proc/self/mounts",
        "tmpfs / tmpfs rw 0 0\ntmpfs /dev/shm tmpfs rw,huge=within_size,size=1g 0 0\n");
  EXPECT_EQ(CheckHugePages(patient_).state, State::kOk);
  EXPECT_TRUE(Has(CheckHugePages(patient_).found, "huge=within_size"));
  EXPECT_FALSE(Has(CheckHugePages(patient_).found, "size=1g"));
}

}  // namespace
}  // namespace zerocp::cli
