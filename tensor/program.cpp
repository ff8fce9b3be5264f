#include "tensor/program.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>

#include "tensor/error.h"

extern char** environ;

namespace halfstep {

namespace {

/// A nameless file that is gone when this object is.
class ScratchFile {
 public:
  explicit ScratchFile(std::string_view where) : where_(where), file_(std::tmpfile(), &std::fclose) {
    require(file_ != nullptr, where_, "cannot create a temporary file: {}; is the disk full?",
            std::generic_category().message(errno));
  }
  int descriptor() const { return ::fileno(file_.get()); }

  void write(std::string_view text) const {
    // First, so that errno is that of the write: arguments are evaluated in any order.
    const bool written =
        std::fwrite(text.data(), 1, text.size(), file_.get()) == text.size() && std::fflush(file_.get()) == 0;
    require(written, where_, "cannot write a temporary file: {}; is the disk full?",
            std::generic_category().message(errno));
    std::rewind(file_.get());
  }
  std::string read() const {
    std::rewind(file_.get());
    std::string text;
    char buffer[1 << 16];
    while (const size_t got = std::fread(buffer, 1, sizeof(buffer), file_.get())) text.append(buffer, got);
    return text;
  }

 private:
  std::string_view where_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
};

/// The lines of a text in one.
std::string one_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

}  // namespace

std::string run_program(std::string_view where, const std::string& name,
                        const std::vector<std::string>& arguments, std::string_view input,
                        std::string_view hint) {
  const ScratchFile in(where), out(where), messages(where);
  in.write(input);
  std::vector<std::string> words{name};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.descriptor(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out.descriptor(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, messages.descriptor(), STDERR_FILENO);
  pid_t child = 0;
  const int error = ::posix_spawnp(&child, name.c_str(), &actions, nullptr, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  require(error == 0, where, "expected the program '{}', but it does not start: {}; {}", name,
          std::generic_category().message(error), hint);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);  // as shells count
  require(code == 0, where, "expected the program '{}' to succeed, it ended with status {}: {}", name, code,
          one_line(messages.read()));
  return out.read();
}

}  // namespace halfstep
