// file.h: what a safetensors file holds: tensors of float32 or float16, and the JSON that describes the model.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace fastrecon {

// JSON: numbers, texts, true and false (as 1 and 0), arrays and objects. null is an object without members.
struct Json {
  enum Kind { kNumber, kText, kArray, kObject } kind = kObject;
  double number = 0;
  std::string text;
  std::vector<Json> items;
  std::map<std::string, Json> members;

  // The member of that name. Throws std::runtime_error where there is none.
  const Json& at(const std::string& name) const;
  bool has(const std::string& name) const { return members.count(name) > 0; }
  // The member as a number, or `other` where there is none.
  double value(const std::string& name, double other) const;
};

// Throws std::runtime_error where `text` is no JSON.
Json parse_json(const std::string& text);

struct Array {
  std::vector<std::int64_t> shape;
  std::vector<float> numbers;
};

struct File {
  Json header;  // method, problem, hyperparameters, ...
  std::map<std::string, Array> tensors;

  // The tensor of that name and, where a size is not -1, of that shape. Throws std::runtime_error.
  const Array& at(const std::string& name, std::vector<std::int64_t> shape) const;
};

// Throws std::runtime_error where the file cannot be read, is damaged, or holds numbers that are not finite.
File read_file(const std::string& path);
}  // namespace fastrecon
