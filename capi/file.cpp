// file.cpp: see file.h.
#include "file.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace fastrecon {
namespace {
constexpr std::uint64_t kMostHeader = std::uint64_t(100) << 20;  // bytes, as of the safetensors format
constexpr int kMostDepth = 64;

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

class Parser {
 public:
  explicit Parser(const std::string& text) : text_(text) {}

  Json whole() {
    Json found = value(0);
    space();
    if (at_ < text_.size()) fail("JSON: expected its end");
    return found;
  }

 private:
  void space() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_])) ++at_;
  }
  char peek() {
    space();
    if (at_ >= text_.size()) fail("JSON: it ends too soon");
    return text_[at_];
  }
  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) fail(std::string("JSON: expected ") + c);
  }
  bool word(const char* w) {
    const std::size_t n = std::strlen(w);
    if (text_.compare(at_, n, w) != 0) return false;
    at_ += n;
    return true;
  }

  Json value(int depth) {
    if (depth > kMostDepth) fail("JSON: too deep");
    Json found;
    const char c = peek();
    if (take('{')) {
      if (take('}')) return found;
      do {
        if (peek() != '"') fail("JSON: expected a name");
        const std::string name = string();
        expect(':');
        found.members[name] = value(depth + 1);
      } while (take(','));
      expect('}');
    } else if (take('[')) {
      found.kind = Json::kArray;
      if (take(']')) return found;
      do found.items.push_back(value(depth + 1));
      while (take(','));
      expect(']');
    } else if (c == '"') {
      found.kind = Json::kText, found.text = string();
    } else if (word("true")) {
      found.kind = Json::kNumber, found.number = 1;
    } else if (word("false")) {
      found.kind = Json::kNumber;
    } else if (!word("null")) {
      const char* const begin = text_.c_str() + at_;
      char* end = nullptr;
      found.kind = Json::kNumber, found.number = std::strtod(begin, &end);
      if (end == begin) fail("JSON: expected a value");
      at_ += std::size_t(end - begin);
    }
    return found;
  }

  std::string string() {
    expect('"');
    std::string found;
    for (;;) {
      if (at_ >= text_.size()) fail("JSON: a text without end");
      const char c = text_[at_++];
      if (c == '"') return found;
      if (c != '\\') {
        found += c;
        continue;
      }
      if (at_ >= text_.size()) fail("JSON: a text without end");
      const char escaped = text_[at_++];
      static const char kNames[] = "\"\\/bfnrt", kMeant[] = "\"\\/\b\f\n\r\t";
      if (const char* const p = escaped ? std::strchr(kNames, escaped) : nullptr) {
        found += kMeant[p - kNames];
      } else if (escaped == 'u' && at_ + 4 <= text_.size()) {  // no text here but ASCII decides anything
        at_ += 4;
        found += '?';
      } else {
        fail("JSON: an unknown escape");
      }
    }
  }

  const std::string& text_;
  std::size_t at_ = 0;
};

float from_half(std::uint16_t h) {
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  const double size = exponent == 0    ? std::ldexp(fraction, -24)
                      : exponent == 31 ? (fraction ? NAN : INFINITY)
                                       : std::ldexp(1024 + fraction, exponent - 25);
  return float(h >> 15 ? -size : size);
}

struct Close {
  void operator()(std::FILE* f) const { std::fclose(f); }
};
}  // namespace

const Json& Json::at(const std::string& name) const {
  const auto found = members.find(name);
  if (found == members.end()) fail(name + ": expected it in the file's settings, got none");
  return found->second;
}

double Json::value(const std::string& name, double other) const {
  const auto found = members.find(name);
  return found == members.end() || found->second.kind != kNumber ? other : found->second.number;
}

Json parse_json(const std::string& text) { return Parser(text).whole(); }

const Array& File::at(const std::string& name, std::vector<std::int64_t> shape) const {
  const auto found = tensors.find(name);
  if (found == tensors.end())
    fail(name + ": expected this tensor, got none: is the file one of `fastrecon export --to c`?");
  const Array& a = found->second;
  bool fits = a.shape.size() == shape.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] == -1 || shape[i] == a.shape[i];
  if (!fits || a.numbers.empty()) fail(name + ": expected a tensor of another shape");
  return a;
}

File read_file(const std::string& path) {
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rb"));
  if (!file) fail(path + ": " + std::strerror(errno));
  std::string bytes;
  char part[1 << 16];
  for (std::size_t n; (n = std::fread(part, 1, sizeof part, file.get())) > 0;) bytes.append(part, n);
  if (std::ferror(file.get())) fail(path + ": expected a readable file");
  std::uint64_t head = 0;
  for (int i = 7; i >= 0 && bytes.size() >= 8; --i) head = head << 8 | std::uint8_t(bytes[std::size_t(i)]);
  if (bytes.size() < 8 || head > kMostHeader || head > bytes.size() - 8) fail(path + ": expected a safetensors file");
  try {
    const Json index = parse_json(bytes.substr(8, head));
    const char* const data = bytes.data() + 8 + head;
    const std::uint64_t size = bytes.size() - 8 - head;
    File found;
    for (const auto& [name, entry] : index.members) {
      if (name == "__metadata__") {
        found.header = parse_json(entry.at("fastrecon").text);
        continue;
      }
      const std::string type = entry.at("dtype").text;
      const std::size_t width = type == "F32" ? 4 : type == "F16" ? 2 : 0;
      const std::vector<Json>& range = entry.at("data_offsets").items;
      if (width == 0) fail(name + ": expected float32 or float16, got " + type);
      if (range.size() != 2) fail(name + ": expected two offsets");
      Array a;
      double count = 1;
      for (const Json& n : entry.at("shape").items) {
        if (!(n.number >= 0 && n.number < 1e9)) fail(name + ": expected sizes");
        a.shape.push_back(std::int64_t(n.number)), count *= n.number;
      }
      const double begin = range[0].number, end = range[1].number;
      if (!(begin >= 0 && end <= double(size) && end - begin == count * double(width)))
        fail(name + ": expected numbers within the file");
      a.numbers.resize(std::size_t(count));
      const char* const from = data + std::size_t(begin);
      for (std::size_t i = 0; i < a.numbers.size(); ++i) {
        std::uint16_t h = 0;
        if (width == 4) {
          std::memcpy(&a.numbers[i], from + 4 * i, 4);
        } else {
          std::memcpy(&h, from + 2 * i, 2);
          a.numbers[i] = from_half(h);
        }
        if (!std::isfinite(a.numbers[i])) fail(name + ": expected finite numbers, got NaN or Inf");
      }
      found.tensors[name] = std::move(a);
    }
    found.header.at("method");
    return found;
  } catch (const std::runtime_error& e) {
    fail(path + ": " + e.what());
  }
}
}  // namespace fastrecon
