// tests/golden_runner: the runner of golden cases fails when it should.
#include "tests/golden_runner/runner.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <functional>

#include "tensor/files.h"
#include "tests/error_of.h"
#include "tests/golden_runner/torch_call.h"
#include "tests/golden_runner/torch_ops.h"
#include "tests/temporary_folder.h"

using namespace halfstep;
using namespace halfstep::test;
namespace fs = std::filesystem;

namespace {

struct Outcome {
  int status = -1;
  std::string text;

  bool says(const std::string& part) const { return text.find(part) != std::string::npos; }
};

Outcome run(std::vector<std::string> arguments) {
  char* buffer = nullptr;
  size_t size = 0;
  std::FILE* out = ::open_memstream(&buffer, &size);
  REQUIRE(out != nullptr);
  Outcome outcome;
  outcome.status = run_golden(arguments, out);
  std::fclose(out);
  outcome.text.assign(buffer, size);
  std::free(buffer);
  return outcome;
}

/// A copy of a case that may be damaged.
struct Copy {
  explicit Copy(const std::string& name, const std::string& as = "a copy") : path(folder / as) {
    fs::create_directories(path);
    for (const char* file : {"case.json", "tensors.safetensors"})
      write_file(path + "/" + file, read_file((golden_folder(name) / file).string()));
  }

  void change_facts(const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json facts = nlohmann::json::parse(read_file(path + "/case.json"));
    change(facts);
    write_file(path + "/case.json", facts.dump());
  }
  void change_tensors(const std::function<void(std::map<std::string, Tensor>&)>& change) {
    NamedTensors content = read_safetensors(path + "/tensors.safetensors");
    change(content.tensors);
    write_safetensors(path + "/tensors.safetensors", content);
  }
  /// Replaces element `i` of a tensor by a function of it.
  void change_element(const std::string& name, size_t i, const std::function<double(double)>& change) {
    change_tensors([&](std::map<std::string, Tensor>& tensors) {
      Tensor& tensor = tensors.at(name);
      std::vector<double> values = tensor.to_vector<double>();
      values.at(i) = change(values.at(i));
      tensor = Tensor::from(values, tensor.shape(), tensor.options());
    });
  }
  Outcome run(const std::string& dtype = "f64") { return ::run({folder.path(), "--dtype", dtype}); }

  TemporaryFolder folder;
  std::string path;
};

const std::string kLinear = "torch/ops/linear_2x13_to_7", kLoss = "jax/04a_loss_continuous",
                  kAdam = "torch/optim/adam_default";

double largest(const GoldenCase& golden, const std::string& name) {
  double result = 0;
  for (const double value : golden.values(name)) result = std::max(result, std::abs(value));
  return result;
}

}  // namespace

TEST_CASE("golden runner: a case passes wherever it lies and whatever its folder is called") {
  const std::string last_line = "\n2 passed, 0 failed\n";
  for (const std::string& name : {kLinear, kLoss, kAdam}) {
    INFO(name);
    const Outcome direct = run({golden_folder(name).string()});
    CHECK(direct.status == 0);
    CHECK(direct.text.ends_with(last_line));

    Copy copy(name, "deep/01_unet_of_another/name");
    CHECK(run({copy.path + "/"}).status == 0);
    const Outcome found = run({copy.folder.path()});
    CHECK(found.status == 0);
    CHECK(found.text.ends_with(last_line));
    CHECK(found.says("pass f64 deep/01_unet_of_another/name"));
    CHECK(found.says("pass f32 deep/01_unet_of_another/name"));
  }
}

TEST_CASE("golden runner: a link to a case is followed, and a loop of links ends") {
  TemporaryFolder folder;
  fs::create_directory_symlink(golden_folder(kLinear), folder / "linked");
  fs::create_directory_symlink(folder.path(), folder / "loop");
  const Outcome outcome = run({folder.path(), "--dtype", "f32"});
  CHECK(outcome.status == 0);
  CHECK(outcome.says("pass f32 linked"));
  CHECK(outcome.text.ends_with("\n1 passed, 0 failed\n"));
}

TEST_CASE("golden runner: an error of three tolerances fails and is named, a third of one passes") {
  struct Target {
    std::string name, tensor;
    double tolerance;  ///< absolute
  };
  const GoldenCase linear(golden_folder(kLinear)), loss(golden_folder(kLoss)), adam(golden_folder(kAdam));
  for (const Target& target :
       {Target{kLinear, "out.f64", 1e-11 * largest(linear, "out.f64")},
        Target{kLinear, "grad.weight.f64", 1e-11 * largest(linear, "grad.weight.f64")},
        Target{kLinear, "grad.bias.f64", 1e-11 * largest(linear, "grad.bias.f64")},
        Target{kLoss, "ref64/eps/dmeanloss_doutput/snr",
               loss.facts.at("outputs").at("eps/dmeanloss_doutput/snr").at("atol_per_row")[0].get<double>()},
        Target{kAdam, "param.k.f64", 1e-12}, Target{kAdam, "final_state.w.exp_avg_sq.f64", 1e-12}}) {
    INFO(target.name, " ", target.tensor);
    Copy slightly(target.name), much(target.name);
    slightly.change_element(target.tensor, 0, [&](double value) { return value + 0.3 * target.tolerance; });
    CHECK(slightly.run().status == 0);
    much.change_element(target.tensor, 0, [&](double value) { return value + 3 * target.tolerance; });
    const Outcome outcome = much.run();
    CHECK(outcome.status == 1);
    CHECK(outcome.says("FAIL f64 a copy"));
    CHECK(outcome.says(target.tensor));
    CHECK(outcome.text.ends_with("\n0 passed, 1 failed\n"));
  }
}

TEST_CASE("golden runner: NaN fails, in a reference and in an input") {
  for (const char* tensor : {"out.f64", "x", "grad.x.f64", "R"}) {
    INFO(tensor);
    Copy copy(kLinear);
    copy.change_element(tensor, 1, [](double) { return std::nan(""); });
    const Outcome outcome = copy.run();
    CHECK(outcome.status == 1);
    CHECK(outcome.text.ends_with("\n0 passed, 1 failed\n"));
  }
  Copy copy(kLoss);
  copy.change_element("ref64/z", 3, [](double) { return std::nan(""); });
  const Outcome outcome = copy.run("f32");
  CHECK(outcome.status == 1);
  CHECK(outcome.says("ref64/z"));
  CHECK(outcome.says("instead of nan"));
}

TEST_CASE("golden runner: an unknown kind fails, with the known ones") {
  Copy copy(kLinear);
  copy.change_facts([](nlohmann::json& facts) { facts["reference"] = "sklearn.linear_model"; });
  Outcome outcome = copy.run();
  CHECK(outcome.status == 1);
  CHECK(outcome.says("unknown kind of case, made by 'sklearn.linear_model'"));
  CHECK(outcome.says("jax unet"));
  CHECK(outcome.says("torch op"));

  Copy operation(kLinear);
  operation.change_facts([](nlohmann::json& facts) { facts["reference"] = "torch.fft.fft2(x)"; });
  outcome = operation.run();
  CHECK(outcome.status == 1);
  CHECK(outcome.says("unknown PyTorch operation 'fft2' (torch.fft.fft2(x))"));
  CHECK(outcome.says("conv2d"));
}

TEST_CASE("golden runner: tensors that are missing, unread or of another shape than promised") {
  for (const char* tensor : {"x", "R", "weight", "out.f64", "grad.bias.f64", "out.f32"}) {
    INFO(tensor);
    Copy copy(kLinear);
    copy.change_tensors([&](auto& tensors) { tensors.erase(tensor); });
    const Outcome outcome = copy.run();
    CHECK(outcome.status == 1);
    CHECK(outcome.says(tensor));
  }
  Copy output(kLoss);
  output.change_tensors([](auto& tensors) { tensors.erase("ref64/v/loss/snr"); });
  CHECK(output.run().says("no tensor 'ref64/v/loss/snr'"));

  Copy promised(kLoss);
  promised.change_facts([](nlohmann::json& facts) { facts["outputs"]["v/surprise"] = {{"atol", 1}}; });
  CHECK(promised.run().says("outputs that this kind does not know: v/surprise"));

  for (const std::string& name : {kLinear, kLoss, kAdam}) {
    Copy unread(name);
    unread.change_tensors([](auto& tensors) { tensors.emplace("more", Tensor::ones({2})); });
    const Outcome outcome = unread.run();
    CHECK(outcome.status == 1);
    CHECK(outcome.says("tensors that nobody read: more"));
  }

  Copy shape(kLinear);
  shape.change_tensors([](auto& tensors) { tensors.at("out.f64") = tensors.at("out.f64").transpose(0, 1); });
  const Outcome outcome = shape.run();
  CHECK(outcome.status == 1);
  CHECK(outcome.says("shape (2, 7) instead of (7, 2)"));
  CHECK(outcome.says("case.json says [2,7]"));
}

TEST_CASE("golden runner: nothing to run, and files that cannot be read") {
  TemporaryFolder empty;
  Outcome outcome = run({empty.path()});
  CHECK(outcome.status == 1);
  CHECK(outcome.says("expected folders with case.json and tensors.safetensors"));
  CHECK(outcome.text.ends_with("\n0 passed, 1 failed\n"));

  CHECK(run({empty / "absent"}).status == 2);
  CHECK(run({}).status == 2);
  CHECK(run({empty.path(), "--dtype", "f16"}).status == 2);
  CHECK(run({empty.path(), "--loud"}).status == 2);
  CHECK(run({golden_folder(kLinear).string(), "--backend", "abacus"}).status == 1);

  for (const char* file : {"case.json", "tensors.safetensors"}) {
    INFO(file);
    Copy removed(kLinear), broken(kLinear);
    fs::remove(removed.path + "/" + file);
    CHECK(removed.run().status == 1);
    write_file(broken.path + "/" + file, "{\"name\": ");
    outcome = broken.run();
    CHECK(outcome.status == 1);
    CHECK(outcome.says(file));
  }
}

TEST_CASE("golden runner: several folders, each with at least one case") {
  const std::string linear = golden_folder(kLinear).string();
  Outcome outcome = run({linear, golden_folder(kLoss).string(), "--dtype", "f32"});
  CHECK(outcome.status == 0);
  CHECK(outcome.says("pass f32 linear_2x13_to_7"));
  CHECK(outcome.says("pass f32 04a_loss_continuous"));
  CHECK(outcome.text.ends_with("\n2 passed, 0 failed\n"));
  TemporaryFolder empty;
  outcome = run({linear, empty.path()});
  CHECK(outcome.status == 1);
  CHECK(outcome.says("found none"));
}

TEST_CASE("golden runner: help, kinds, every tensor in verbose mode, lines of 100 columns") {
  CHECK(run({"--help"}).status == 0);
  CHECK(run({"--help"}).says("--dtype"));
  CHECK(run({"--kinds"}).says("jax unet"));
  const std::string folder = golden_folder(kLoss).string();
  CHECK(!run({folder}).says("ref64/both/student/model_eps"));
  CHECK(run({folder, "--verbose"}).says("ref64/both/student/model_eps"));
  CHECK(run({folder, "--backend", "reference", "--dtype", "f32"}).says("compared on reference"));

  CaseResult result{.name = std::string(200, 'n'), .dtype = DType::f32, .comparisons = {}, .problems = {}};
  result.comparisons.push_back({.name = std::string(200, 't'), .error = 1e-300, .bound = 1e-5, .remark = ""});
  const std::string line = report(result, false);
  CHECK(line.size() <= 101);
}

TEST_CASE("golden runner: docs/golden.md lists every kind and every PyTorch operation") {
  const std::string text = read_file(std::string(HALFSTEP_TESTS_DIR) + "/../docs/golden.md");
  for (const Kind& kind : kinds()) {
    INFO(kind.name);
    CHECK(text.find(fmt::format("| {} |", kind.name)) != std::string::npos);
  }
  CHECK(torch_op_names().size() > 30);
  for (const std::string& name : torch_op_names()) {
    INFO(name);
    CHECK(text.find("`" + name + "`") != std::string::npos);
    CHECK(run({"--kinds"}).says(" " + name));
  }
}

TEST_CASE("golden runner: compare") {
  const auto tensor = [](const std::vector<double>& values, const Shape& shape) {
    return Tensor::from(values, shape, {DType::f64});
  };
  const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const auto share = [&](const std::vector<double>& expected, const std::vector<double>& actual,
                         const Tolerance& tolerance) {
    const Shape shape{static_cast<int64_t>(expected.size())};
    return compare("t", tensor(expected, shape), tensor(actual, shape), tolerance).share;
  };
  CHECK(share({1, 2}, {1, 2.5}, {{1.0}}) == 0.5);
  CHECK(share({1, 4}, {1, 2}, {{1.0}, true}) == 0.5);         // 2 / 4
  CHECK(share({0, 0}, {0, 0.5}, {{1.0}, true}) == 0.5);       // absolute
  CHECK(share({1, 100}, {1.5, 150}, {{1.0, 100.0}}) == 0.5);  // one bound per row
  CHECK(share({1, 100}, {2, 100}, {{0.5, 100.0}}) == 2);
  CHECK(share({1}, {1}, {{0.0}}) == 0);
  CHECK(share({1}, {1.0000001}, {{0.0}}) == inf);
  CHECK(share({inf, -inf}, {inf, -inf}, {{1.0}}) == 0);
  CHECK(share({inf}, {-inf}, {{1.0}}) == inf);
  CHECK(share({1}, {inf}, {{1.0}}) == inf);
  CHECK(share({1}, {inf}, {{1.0}, true}) == inf);
  for (const bool relative : {false, true}) {
    CHECK(share({1, 1}, {1, nan}, {{1.0}, relative}) == inf);
    CHECK(share({1, nan}, {1, 1}, {{1.0}, relative}) == inf);
    CHECK(share({nan}, {nan}, {{1.0}, relative}) == inf);
    CHECK(share({1}, {1}, {{nan}, relative}) == inf);
    CHECK(share({1}, {2}, {{inf}, relative}) == 0);
  }
  CHECK(share({1, 2, 3}, {1, 2, 3}, {{1.0, 1.0}}) == inf);  // rows that do not divide
  CHECK_FALSE(compare("t", tensor({1, 2}, {2}), tensor({1, 2}, {2, 1}), {{1.0}}).passed());
  CHECK_FALSE(compare("t", tensor({1, 2}, {2}), Tensor(), {{1.0}}).passed());
  CHECK(compare("t", tensor({}, {0}), tensor({}, {0}), {{1.0}}).passed());
}

TEST_CASE("golden runner: the calls that references name") {
  CHECK(parse_torch_call("torch add").function == "add");
  CHECK(parse_torch_call("torch.nn.functional.conv2d after torch.nn.functional.pad").function == "conv2d");
  CHECK(parse_torch_call("torch.Tensor.ReLU").function == "relu");
  TorchCall call = parse_torch_call("torch.nn.functional.pad(x,(0, 1,-2,3), value=0.5)");
  CHECK(call.function == "pad");
  REQUIRE(call.positional.size() == 2);
  CHECK(call.positional[0].is_null());
  CHECK(call.positional[1] == nlohmann::json({0, 1, -2, 3}));
  CHECK(call.keywords.at("value") == 0.5);
  call = parse_torch_call("torch.nn.functional.interpolate(scale_factor=2.0,mode='nearest', x=(1,), y=None)");
  CHECK(call.keywords.at("scale_factor") == 2.0);
  CHECK(call.keywords.at("mode") == "nearest");
  CHECK(call.keywords.at("x") == nlohmann::json({1}));
  CHECK(call.keywords.at("y").is_null());
  call = parse_torch_call("torch.sum(x, dim=[1,2], keepdim=True)");
  CHECK(call.keywords.at("dim") == nlohmann::json({1, 2}));
  CHECK(call.keywords.at("keepdim") == true);
  CHECK(error_of([] { parse_torch_call("torch.sum(x, (1, 2)"); }).find("brackets") != std::string::npos);
}
