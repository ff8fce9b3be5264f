// Files and folders are whole or absent, whatever happens to the process that writes them.
#include "tensor/files.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tensor/error.h"
#include "tests/error_of.h"
#include "tests/temporary_folder.h"

using namespace halfstep;
using halfstep::test::error_of;
using halfstep::test::TemporaryFolder;
namespace fs = std::filesystem;

namespace {

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

/// Runs `action` in a process of its own. Returns the status of waitpid.
int in_child(const std::function<void()>& action) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    action();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

}  // namespace

TEST_CASE("write_file and read_file keep every byte") {
  const TemporaryFolder folder;
  const std::string path = folder / "file";
  std::string bytes;
  for (int i = 0; i < 200'000; ++i) bytes += static_cast<char>(i * 7 >> 3);
  for (const std::string& content : {bytes, std::string(), std::string("a\0b", 3)}) {
    write_file(path, content);
    CHECK(read_file(path) == content);
    CHECK(names_in(folder.path()) == std::vector<std::string>{"file"});
  }
}

TEST_CASE("write_file replaces the file that a symbolic link names") {
  const TemporaryFolder folder;
  write_file(folder / "file", "old");
  fs::create_symlink("file", folder / "link");
  write_file(folder / "link", "new");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(read_file(folder / "file") == "new");
}

TEST_CASE("read_file reads a pipe to its end") {
  const TemporaryFolder folder;
  const std::string path = folder / "pipe", content(300'000, 'x');
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  std::thread writer([&] { std::ofstream(path) << content; });
  CHECK(read_file(path) == content);
  writer.join();
}

TEST_CASE("file errors name the path, the reason and a way out") {
  const TemporaryFolder folder;
  CHECK(error_of([&] { read_file(folder / "none"); }) ==
        "[file] cannot read '" + (folder / "none") +
            "': No such file or directory; check the path, and create the folder first");
  CHECK(error_of([&] { read_file(folder.path()); }).find("Is a directory; give the name of a file") !=
        std::string::npos);
  CHECK(error_of([&] { write_file(folder / "none/file", "x"); }).find("No such file or directory") !=
        std::string::npos);
  CHECK(error_of([&] { write_file(folder.path(), "x"); }).find("Is a directory") != std::string::npos);
  // Always full; and written to directly: it is still there.
  CHECK(error_of([&] { write_file("/dev/full", "x"); }).find("No space left on device; the disk is full") !=
        std::string::npos);
  CHECK(fs::is_character_file("/dev/full"));
  write_file(folder / "file", "x");
  CHECK(error_of([&] { create_folders(folder / "file/sub"); }).find("Not a directory") != std::string::npos);
}

TEST_CASE("a write that fails leaves the old file and nothing else") {
  const TemporaryFolder folder;
  const std::string path = folder / "file";
  write_file(path, "old");
  const int status = in_child([&] {
    const rlimit limit{1000, 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::signal(SIGXFSZ, SIG_IGN);
    const std::string message = error_of([&] { write_file(path, std::string(5000, 'x')); });
    ::_exit(message.find("File too large") != std::string::npos ? 42 : 1);
  });
  CHECK(WEXITSTATUS(status) == 42);
  CHECK(read_file(path) == "old");
  CHECK(names_in(folder.path()) == std::vector<std::string>{"file"});
}

TEST_CASE("a writer killed at any moment leaves a whole file") {
  const TemporaryFolder folder;
  const std::string path = folder / "file";
  write_file(path, std::string(1'000'000, 'a'));
  for (int round = 0; round < 15; ++round) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      for (char c = 'b';; c = c == 'z' ? 'a' : static_cast<char>(c + 1))
        write_file(path, std::string(1'000'000, c));
    }
    ::usleep(static_cast<useconds_t>(1000 + 700 * round));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));
    const std::string content = read_file(path);
    CHECK(content.size() == 1'000'000);
    CHECK(std::count(content.begin(), content.end(), content[0]) == 1'000'000);
  }
  write_file(path, "end");
  CHECK(names_in(folder.path()) == std::vector<std::string>{"file"});
}

TEST_CASE("a growing file takes whole records or nothing of them") {
  const TemporaryFolder folder;
  const std::string path = folder / "log";
  {
    GrowingFile file(path);
    file.append("one\n");
    CHECK(read_file(path) == "one\n");  // at once: nobody need close it
    file.append(std::string("\0\n", 2));
    file.sync();
    CHECK(read_file(path) == std::string("one\n\0\n", 6));
  }
  CHECK(error_of([&] { GrowingFile again(path); }).find("cannot create '" + path + "': File exists") !=
        std::string::npos);
  const int status = in_child([&] {
    GrowingFile file(folder / "limited");
    file.append(std::string(900, 'a'));
    const rlimit limit{1000, 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::signal(SIGXFSZ, SIG_IGN);
    const std::string message = error_of([&] { file.append(std::string(300, 'b')); });
    ::_exit(message.find("File too large; the file would exceed") != std::string::npos ? 42 : 1);
  });
  CHECK(WEXITSTATUS(status) == 42);
  CHECK(read_file(folder / "limited") == std::string(900, 'a'));
}

TEST_CASE("publish_folder shows a folder only when it is complete") {
  const TemporaryFolder folder;
  const std::string target = folder / "step-1";
  publish_folder(target + "/", [&](const std::string& temporary) {
    CHECK_FALSE(fs::exists(target));
    std::ofstream(temporary + "/plain") << "text";
    create_folders(temporary + "/sub");
    write_file(temporary + "/sub/file", "more");
  });
  CHECK(names_in(folder.path()) == std::vector<std::string>{"step-1"});
  CHECK(read_file(target + "/plain") == "text");
  CHECK(read_file(target + "/sub/file") == "more");
}

TEST_CASE("publish_folder never replaces anything") {
  const TemporaryFolder folder;
  create_folders(folder / "folder");
  write_file(folder / "file", "x");
  fs::create_symlink("nowhere", folder / "link");
  for (const std::string name : {"folder", "file", "link"}) {
    bool called = false;
    const std::string message =
        error_of([&] { publish_folder(folder / name, [&](const auto&) { called = true; }); });
    CHECK(message.find("nothing is ever replaced") != std::string::npos);
    CHECK_FALSE(called);
  }
  // One that appears meanwhile.
  CHECK(error_of([&] {
          publish_folder(folder / "new", [&](const std::string&) { create_folders(folder / "new"); });
        }).find("nothing is ever replaced") != std::string::npos);
  CHECK(names_in(folder.path()) == std::vector<std::string>{"file", "folder", "link", "new"});
}

TEST_CASE("publish_folder leaves nothing behind when filling fails") {
  const TemporaryFolder folder;
  CHECK_THROWS_AS(publish_folder(folder / "new",
                                 [&](const std::string& temporary) {
                                   write_file(temporary + "/file", "x");
                                   fail("test", "no more");
                                 }),
                  Error);
  CHECK(names_in(folder.path()).empty());
}

TEST_CASE("leftovers of killed processes are removed, temporaries of running ones are not") {
  const TemporaryFolder folder;
  const int status = in_child([&] {
    publish_folder(folder / "step-1", [&](const std::string& temporary) {
      write_file(temporary + "/file", "x");
      ::kill(::getpid(), SIGKILL);
    });
  });
  CHECK(WIFSIGNALED(status));
  REQUIRE(names_in(folder.path()).size() == 1);
  CHECK(names_in(folder.path())[0].starts_with("step-1.halfstep-tmp-"));

  publish_folder(folder / "step-2", [&](const std::string& running) {
    CHECK(names_in(folder.path()).size() == 1);  // the leftover is gone, this one is here
    publish_folder(folder / "step-3", [](const auto&) {});
    write_file(folder / "file", "x");
    CHECK(fs::is_directory(running));
  });
  CHECK(names_in(folder.path()) == std::vector<std::string>{"file", "step-2", "step-3"});
}

TEST_CASE("remove_folder removes all or says why not") {
  const TemporaryFolder folder;
  const std::string doomed = folder / "doomed";
  create_folders(doomed + "/below");
  write_file(doomed + "/below/file", "x");
  remove_folder(doomed + "/");
  CHECK(names_in(folder.path()).empty());
  CHECK(error_of([&] { remove_folder(doomed); }).starts_with("[file] cannot remove '" + doomed + "'"));
}

TEST_CASE("a folder has one lock, which dies with its process") {
  const TemporaryFolder folder;
  const std::string run = folder / "run";
  {
    const FolderLock lock(run);
    CHECK(error_of([&] { FolderLock second(run); }) ==
          fmt::format("[lock] expected to be the only writer of '{}', but process {} is one; wait for it, "
                      "stop it, or choose another folder",
                      run, ::getpid()));
  }
  const int status = in_child([&] {
    new FolderLock(run);  // never freed: the process is killed
    ::raise(SIGKILL);
  });
  CHECK(WIFSIGNALED(status));
  const FolderLock again(run);
}
