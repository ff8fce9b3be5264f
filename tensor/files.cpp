#include "tensor/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <system_error>

#include "tensor/error.h"

namespace halfstep {
namespace {

namespace fs = std::filesystem;

/// Unmistakably ours, so that leftovers may be removed without asking; the number of the process that writes
/// follows.
constexpr std::string_view kTemporaryMark = ".halfstep-tmp-";

std::string_view hint_for(int error) {
  switch (error) {
    case ENOENT:
      return "; check the path, and create the folder first";
    case EACCES:
    case EPERM:
      return "; check the permissions of the file and of its folder";
    case EROFS:
      return "; the file system is read-only, choose another folder";
    case ENOSPC:
    case EDQUOT:
      return "; the disk is full, free some space or choose another folder";
    case EFBIG:
      return "; the file would exceed a size limit (ulimit -f)";
    case EISDIR:
      return "; give the name of a file, not of a folder";
    case ENOTDIR:
      return "; a part of the path is a file, not a folder";
    case EMFILE:
      return "; too many files are open (ulimit -n)";
    default:
      return "";
  }
}

/// Throws Error for `error`, a value of errno.
[[noreturn]] void fail_system(std::string_view action, const std::string& path, int error) {
  fail("file", "cannot {} '{}': {}{}", action, path, std::generic_category().message(error), hint_for(error));
}

/// An open file that is closed at the end of the scope.
class Descriptor {
 public:
  Descriptor(const std::string& path, int flags, std::string_view action)
      : path_(path), number_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (number_ < 0) fail_system(action, path, errno);
  }
  ~Descriptor() { ::close(number_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  void write_all(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t written = ::write(number_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail_system("write", path_, errno);
      bytes.remove_prefix(static_cast<size_t>(written));
    }
  }

  /// 0 at the end of the file.
  size_t read_some(char* to, size_t bytes) const {
    for (;;) {
      const ssize_t got = ::read(number_, to, bytes);
      if (got >= 0) return static_cast<size_t>(got);
      if (errno != EINTR) fail_system("read", path_, errno);
    }
  }

  size_t size() const {
    struct stat info {};
    if (::fstat(number_, &info) != 0) fail_system("examine", path_, errno);
    return static_cast<size_t>(info.st_size);
  }

  void sync() const {
    // EINVAL: this kind of file (a folder, on some network file systems) has nothing to be forced to a disk.
    if (::fsync(number_) != 0 && errno != EINVAL) fail_system("write to the disk", path_, errno);
  }

  /// Shortens the file to its first `bytes`, as far as the file system lets it.
  void cut(size_t bytes) const noexcept {
    while (::ftruncate(number_, static_cast<off_t>(bytes)) != 0 && errno == EINTR) {
    }
  }

  /// Held until the descriptor closes, however the process ends.
  void lock() const {
    // A file system without locks has none to take; there, leftovers stay.
    if (::flock(number_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) fail_system("lock", path_, errno);
  }

 private:
  std::string path_;
  int number_;
};

void sync_folder(const std::string& path) { Descriptor(path, O_RDONLY | O_DIRECTORY, "open").sync(); }

std::string folder_of(const std::string& path) {
  const std::string folder = fs::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

/// Without this a name that ends in '/' would put the temporary inside the folder that it is to become.
std::string without_trailing_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

/// What is being written for `target`, beside it under a temporary name: removed unless it gets its final
/// name. It is locked while this object lives, which tells it from a leftover.
class Temporary {
 public:
  enum class Kind { file, folder };

  Temporary(const std::string& target, Kind kind)
      : target_(target), name_(fmt::format("{}{}{}", target, kTemporaryMark, ::getpid())) {
    remove_leftovers(folder_of(target));
    if (kind == Kind::folder && ::mkdir(name_.c_str(), 0777) != 0)
      fail_system("create the folder", name_, errno);
    const int flags = kind == Kind::folder ? O_RDONLY | O_DIRECTORY : O_WRONLY | O_CREAT | O_EXCL;
    descriptor_.emplace(name_, flags, "create");
    descriptor_->lock();
  }
  ~Temporary() {
    std::error_code
        ignored;  // another error is on its way to the user; a leftover is removed by a later call
    if (!published_) fs::remove_all(name_, ignored);
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

  const std::string& name() const { return name_; }
  const Descriptor& descriptor() const { return *descriptor_; }

  /// Gives the contents, which are on the disk by now, their final name.
  void publish() {
    if (::rename(name_.c_str(), target_.c_str()) != 0) fail_system("create", target_, errno);
    published_ = true;
    sync_folder(folder_of(target_));
  }

 private:
  std::string target_, name_;
  std::optional<Descriptor> descriptor_;
  bool published_ = false;
};

/// Forces every file and folder below and including `folder` to the disk.
void sync_tree(const std::string& folder) {
  std::error_code error;
  for (fs::recursive_directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (at->is_regular_file() || at->is_directory()) Descriptor(at->path().string(), O_RDONLY, "open").sync();
  }
  if (error) fail_system("list", folder, error.value());
  sync_folder(folder);
}

}  // namespace

std::string read_file(const std::string& path) {
  const Descriptor file(path, O_RDONLY, "read");
  // The size is only a first guess: a pipe says 0, and a file may be growing. The byte more lets the loop end
  // without another allocation.
  std::string bytes(file.size() + 1, '\0');
  size_t filled = 0;
  while (const size_t got = file.read_some(bytes.data() + filled, bytes.size() - filled)) {
    filled += got;
    if (filled == bytes.size()) bytes.resize(2 * filled + (size_t{1} << 16));
  }
  bytes.resize(filled);
  return bytes;
}

void write_file(const std::string& path, std::string_view bytes) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    const Descriptor file(path, O_WRONLY, "write");
    file.write_all(bytes);
    return;
  }
  // A symbolic link keeps pointing at its file, which is the one replaced.
  const std::string target = fs::exists(status) ? fs::canonical(path, error).string() : path;
  if (error && fs::exists(status)) fail_system("examine", path, error.value());
  Temporary temporary(target, Temporary::Kind::file);
  temporary.descriptor().write_all(bytes);
  temporary.descriptor().sync();
  temporary.publish();
}

void create_folders(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail_system("create the folder", path, error.value());
}

class GrowingFile::File : public Descriptor {
 public:
  using Descriptor::Descriptor;
};

GrowingFile::GrowingFile(const std::string& path, Start start)
    : file_(std::make_unique<File>(
          path, O_WRONLY | O_CREAT | O_APPEND | (start == Start::new_file ? O_EXCL : 0), "create")) {}
GrowingFile::~GrowingFile() = default;
GrowingFile::GrowingFile(GrowingFile&&) noexcept = default;
GrowingFile& GrowingFile::operator=(GrowingFile&&) noexcept = default;

void GrowingFile::append(std::string_view record) {
  const size_t before = file_->size();
  try {
    file_->write_all(record);
  } catch (const Error&) {
    file_->cut(before);  // half a record would hide all that follow it
    throw;
  }
}

void GrowingFile::sync() { file_->sync(); }

void publish_folder(const std::string& path, const std::function<void(const std::string& folder)>& fill) {
  const std::string target = without_trailing_slashes(path);
  const auto require_new = [&] {
    std::error_code error;  // any other than "not found" comes back when the folder is created
    require(!fs::exists(fs::symlink_status(target, error)), "file",
            "expected '{}' to be a new folder, but it exists; nothing is ever replaced", target);
  };
  require_new();
  Temporary temporary(target, Temporary::Kind::folder);
  fill(temporary.name());
  sync_tree(temporary.name());
  require_new();  // rename itself would replace an empty folder
  temporary.publish();
}

void remove_folder(const std::string& path) {
  const std::string target = without_trailing_slashes(path);
  const std::string doomed = fmt::format("{}{}{}", target, kTemporaryMark, ::getpid());
  if (::rename(target.c_str(), doomed.c_str()) != 0) fail_system("remove", target, errno);
  std::error_code error;
  fs::remove_all(doomed, error);
  if (error) fail_system("remove", doomed, error.value());
}

// What cannot be opened or removed is another user's, and no reason to refuse the caller's work.
void remove_leftovers(const std::string& folder) {
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (at->path().filename().string().find(kTemporaryMark) == std::string::npos) continue;
    const int descriptor = ::open(at->path().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (descriptor < 0) continue;
    std::error_code not_ours;
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) fs::remove_all(at->path(), not_ours);
    ::close(descriptor);
  }
  if (error) fail_system("list", folder, error.value());
}

FolderLock::FolderLock(const std::string& folder) {
  create_folders(folder);
  const std::string path = folder + "/.halfstep-lock";
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail_system("create", path, errno);
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    char holder[32] = {};
    const ssize_t length = ::pread(descriptor_, holder, sizeof holder - 1, 0);
    ::close(descriptor_);
    fail("lock",
         "expected to be the only writer of '{}', but process {} is one; wait for it, stop it, or choose "
         "another folder",
         folder, length > 0 ? holder : "?");
  }
  // For the message above only: a full disk is no reason to stop here.
  const std::string number = fmt::format("{}", ::getpid());
  if (::ftruncate(descriptor_, 0) == 0) [[maybe_unused]]
    const ssize_t written = ::pwrite(descriptor_, number.data(), number.size(), 0);
}

FolderLock::~FolderLock() { ::close(descriptor_); }

}  // namespace halfstep
