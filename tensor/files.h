// Files that are either whole or not there: a crash, a kill -9 or a full disk at any moment leaves the old
// state or the new one, never half of it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace halfstep {

/// The contents of a file (or pipe). Throws Error with the path and the system's reason.
std::string read_file(const std::string& path);

/// Creates or replaces `path` in one step: writes a temporary file in the same folder, forces it to the disk
/// and renames it. The folder must exist. A path that is no regular file (a pipe, /dev/null) is written to
/// directly. Throws Error with the path, the system's reason and a hint; the old file is then unchanged.
void write_file(const std::string& path, std::string_view bytes);

/// Creates the folder `path` and the folders above it where they are missing. Throws Error.
void create_folders(const std::string& path);

/// Creates the folder `path` in one step, filled by `fill(temporary_folder)`, which writes files and
/// sub-folders there by any means. Everything is forced to the disk before the folder gets its name. The
/// folder above must exist. Throws Error if `path` exists (nothing is ever replaced) or a file operation
/// fails; when `fill` or a file operation throws, nothing is left behind.
void publish_folder(const std::string& path, const std::function<void(const std::string& folder)>& fill);

/// Removes the folder `path` with all it holds. To others it is gone in one step; a process killed on the way
/// leaves a temporary, see below. Throws Error.
void remove_folder(const std::string& path);

/// Removes what killed processes left directly in `folder`: temporaries that nobody has locked. write_file and
/// publish_folder do so, too. Throws Error where the folder cannot be listed.
void remove_leftovers(const std::string& folder);

/// Marks a folder as one that this process alone writes, until the object goes or the process ends, however
/// that happens. Readers need no lock. The file `.halfstep-lock` stays in the folder.
class FolderLock {
 public:
  /// Creates the folder where it is missing. Throws Error naming the process that holds the lock. On a file
  /// system without locks nothing is locked.
  explicit FolderLock(const std::string& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

/// A file that grows record by record, for logs that others read meanwhile. A record is written at once: a
/// process that is killed leaves whole records, but for the last one if the system itself stops.
class GrowingFile {
 public:
  /// What the constructor accepts at the path.
  enum class Start { new_file, new_or_old_file };

  /// Creates `path`, or goes on with what is there. Throws Error, for a new file also if it exists.
  explicit GrowingFile(const std::string& path, Start start = Start::new_file);
  ~GrowingFile();
  GrowingFile(GrowingFile&&) noexcept;
  GrowingFile& operator=(GrowingFile&&) noexcept;

  /// Throws Error with the path, the system's reason and a hint; nothing of the record then stays in the
  /// file.
  void append(std::string_view record);
  /// Forces everything to the disk. Throws Error.
  void sync();

 private:
  class File;
  std::unique_ptr<File> file_;
};

// A killed process leaves `NAME.halfstep-tmp-PID` behind. The next write_file or publish_folder in the same
// folder removes it; temporaries of running processes are locked, and kept.

}  // namespace halfstep
