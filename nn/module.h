// Modules: plain structs whose members are parameters and other modules, with one walk over them.
//
//   struct Classifier {
//     Linear hidden, output;
//     Classifier(int64_t in, int64_t classes) : hidden(in, 64), output(64, classes) {}
//     Variable operator()(const Variable& x) const { return output(silu(hidden(x))); }
//
//     template <class Self, class Visitor>
//     static void fields(Self& self, Visitor&& visit) {
//       visit("hidden", self.hidden);
//       visit("output", self.output);
//     }
//   };
//
// `fields` is the only list of members. From it come the dotted parameter names ("hidden.kernel"), first
// values, counts, copies, save and load, and what optimisers and averages work on. A member may be a
// Parameter, a module, a std::optional (skipped while empty), a std::variant (its alternative takes the name)
// or a std::vector (element i of "block" is named "block_i") of these.
//
// Copying a module copies handles: both copies share their parameters, as copies of a Variable do. `clone`
// makes an independent module.
#pragma once

#include <fmt/format.h>

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "autograd/variable.h"
#include "nn/init.h"

namespace halfstep {

/// A Variable that a module trains, together with its shape and the recipe of its first value. It is
/// undefined, and using it an error, until init_parameters has run.
struct Parameter : Variable {
  Parameter(Shape shape_, Initializer init_) : declared_shape(shape_), init(std::move(init_)) {}

  Shape declared_shape;
  Initializer init;
};

/// Tensors by dotted name, as .safetensors files hold them.
using TensorMap = std::map<std::string, Tensor>;

/// A parameter and its dotted name.
struct NamedVariable {
  std::string name;
  Variable variable;  ///< the handle that the module holds, not a copy
};
/// The parameters of a module in the order of its walk.
using Parameters = std::vector<NamedVariable>;

namespace detail {

struct AnyVisitor {
  template <class Member>
  void operator()(std::string_view, Member&) const {}
};

template <class T>
inline constexpr bool is_optional = false;
template <class T>
inline constexpr bool is_optional<std::optional<T>> = true;
template <class T>
inline constexpr bool is_vector = false;
template <class T>
inline constexpr bool is_vector<std::vector<T>> = true;
template <class T>
inline constexpr bool is_variant = false;
template <class... T>
inline constexpr bool is_variant<std::variant<T...>> = true;

/// Calls f(dotted name, parameter) for every parameter below `member`.
template <class Member, class F>
void walk(const std::string& name, Member& member, F& f) {
  using Type = std::remove_const_t<Member>;
  if constexpr (std::is_same_v<Type, Parameter>) {
    f(name, member);
  } else if constexpr (is_optional<Type>) {
    if (member) walk(name, *member, f);
  } else if constexpr (is_vector<Type>) {
    for (size_t i = 0; i < member.size(); ++i) walk(fmt::format("{}_{}", name, i), member[i], f);
  } else if constexpr (is_variant<Type>) {
    std::visit([&](auto& alternative) { walk(name, alternative, f); }, member);
  } else {
    Type::fields(member, [&](std::string_view field, auto& child) {
      walk(name.empty() ? std::string(field) : fmt::format("{}.{}", name, field), child, f);
    });
  }
}

/// Copies the tensors of `from` into those of `to`, in place, name by name. Strict, as load_state says; names
/// of `from` that do not start with `prefix` are left alone.
void copy_state(std::string_view where, const TensorMap& from, const TensorMap& to,
                std::string_view prefix = "");
void copy_parameters(const Parameters& from, const Parameters& to);

// What makes a list for the backend of parameters (AdamArgs and others in tensor/backend.h); both throw
// Error(where).
/// There are parameters, of one floating dtype and on one device.
void require_alike(std::string_view where, const Parameters& parameters);
/// The parameter is contiguous and still has the shape that it had when its companions were made.
void require_unchanged(std::string_view where, const NamedVariable& parameter, const Shape& shape);

}  // namespace detail

/// A struct with the walk described at the top of this file, over mutable and over const members.
template <class M>
concept Module = requires(M& module, const M& constant) {
  M::fields(module, detail::AnyVisitor{});
  M::fields(constant, detail::AnyVisitor{});
};

/// Calls f(const std::string& name, Parameter& parameter) in the order of the walk.
template <Module M, class F>
void for_each_parameter(M& module, F&& f) {
  detail::walk("", module, f);
}
/// The same with const Parameter&.
template <Module M, class F>
void for_each_parameter(const M& module, F&& f) {
  detail::walk("", module, f);
}

/// Handles of all parameters: what optimisers and averages take.
template <Module M>
Parameters parameters(const M& module) {
  Parameters result;
  for_each_parameter(module, [&](const std::string& name, const Parameter& p) {
    result.push_back({name, p});
  });
  return result;
}

/// Number of trained scalars.
template <Module M>
int64_t parameter_count(const M& module) {
  int64_t count = 0;
  for_each_parameter(module,
                     [&](const std::string&, const Parameter& p) { count += numel(p.declared_shape); });
  return count;
}

/// Gives every parameter its first value (gradients on). Each draws from a stream of its own, made of `seed`
/// and its name, so that adding a layer changes no other. Handles taken before (parameters(), copies) do not
/// follow.
template <Module M>
void init_parameters(M& module, uint64_t seed, TensorOptions options = {}) {
  for_each_parameter(module, [&](const std::string& name, Parameter& p) {
    static_cast<Variable&>(p) =
        Variable(p.init(p.declared_shape, fold_in(RandomKey{seed, 0}, name), options), true);
  });
}

/// Parameters with memory, but no values yet, for whoever loads them anyway: drawing takes longer than
/// reading.
template <Module M>
void allocate_parameters(M& module, TensorOptions options = {}) {
  for_each_parameter(module, [&](const std::string&, Parameter& p) {
    static_cast<Variable&>(p) = Variable(Tensor::empty(p.declared_shape, options), true);
  });
}

/// An independent copy: same values, new leaves without gradients.
template <Module M>
M clone(const M& module) {
  M copy = module;
  for_each_parameter(copy, [](const std::string&, Parameter& p) {
    static_cast<Variable&>(p) = Variable(p.value().clone(), p.requires_grad());
  });
  return copy;
}

/// The values by name. They share memory with the parameters.
template <Module M>
TensorMap state(const M& module) {
  TensorMap result;
  for_each_parameter(module,
                     [&](const std::string& name, const Parameter& p) { result.emplace(name, p.value()); });
  return result;
}

/// Copies `saved` into the parameters, in place, converted to their dtype and device. Arrays of another shape
/// are reshaped where the number of elements agrees (official checkpoints hold attention kernels as [C,
/// heads, head_dim] and old group norms as [1, 1, 1, C]). Strict: missing and unexpected names and wrong
/// sizes are all listed in one error, with the nearest expected name, and then nothing was loaded.
template <Module M>
void load_state(M& module, const TensorMap& saved) {
  detail::copy_state("load_state", saved, state(module));
}

/// Converts all parameters in place (also seen by modules that share them); gradients are dropped.
template <Module M>
void convert(M& module, DType dtype) {
  for (NamedVariable& p : parameters(module)) p.variable.set_value(p.variable.value().to(dtype));
}
template <Module M>
void convert(M& module, Device& device) {
  for (NamedVariable& p : parameters(module)) p.variable.set_value(p.variable.value().to(device));
}

/// Overwrites the values of `to` in place. The two must have the same names and shapes.
template <Module From, Module To>
void copy_parameters(const From& from, const To& to) {
  detail::copy_parameters(parameters(from), parameters(to));
}

/// Switches gradients of all parameters on or off: a teacher is frozen.
template <Module M>
void set_requires_grad(M& module, bool requires_grad) {
  for (NamedVariable& p : parameters(module)) p.variable.set_requires_grad(requires_grad);
}

/// Drops all gradients.
template <Module M>
void zero_grad(M& module) {
  for (NamedVariable& p : parameters(module)) p.variable.zero_grad();
}

}  // namespace halfstep
