// Files that are read and replaced as a whole: at no instant, and after no crash, is one half old
// and half new.
//
// Crash. What was prepared stays beside the file, with ".new" at the end of its name, and is
// overwritten by the next one. One replacement of a file at a time.
#pragma once

#include <string>
#include <string_view>

#include "shm/status.h"

namespace zerocp {

// The text of a regular file of at most kMaxFileBytes. kNotFound, kDenied, kLimit. Waits for
// nobody, whatever is at that path.
inline constexpr size_t kMaxFileBytes = size_t{1} << 20;
shm::Result<std::string> ReadWholeFile(const std::string& path);

class FileReplacement {
 public:
  // Writes `bytes` beside the file and syncs them: what can fail has been done then. A symbolic
  // link is followed; the mode stays as it is, or is 0600 for a file that is not there. kDenied,
  // kNoMemory.
  static shm::Result<FileReplacement> Prepare(const std::string& path, std::string_view bytes);
  // Removes what was prepared, unless it was committed.
  ~FileReplacement();
  FileReplacement(FileReplacement&& other) noexcept;
  FileReplacement& operator=(FileReplacement&&) = delete;

  // Puts it in the file's place; durable when it returns. kDenied.
  shm::Status Commit();

 private:
  explicit FileReplacement(std::string path) : path_(std::move(path)) {}
  std::string new_path() const { return path_ + ".new"; }

  std::string path_;  // empty: nothing is prepared any more
};

// Makes what happened to the names in the directory of `path` durable. kDenied.
shm::Status SyncDirectoryOf(const std::string& path);

}  // namespace zerocp
