// Messages as tables, JSON or YAML, by their descriptors.
#pragma once

#include <google/protobuf/message.h>

#include <string>
#include <vector>

#include "client/cli/table.h"

namespace zerocp::cli {

enum class Format { kTable, kJson, kYaml };

// A column of a table of messages.
struct Column {
  const char* heading;
  const char* field;           // path within the message: "pool", "spec.chunk_count"
  const char* zero = nullptr;  // shown for 0, false, empty and unset, if not those themselves
};

// A table of a response.
struct Section {
  const char* rows;  // path to its messages; "": the response itself, a field per line
  std::vector<Column> columns;
  bool left_out_if_empty = false;
  // Whether `a` comes before `b`; nullptr: as they come.
  bool (*before)(const google::protobuf::Message& a, const google::protobuf::Message& b) = nullptr;
  // What an operator has to look at.
  Tone (*tone)(const google::protobuf::Message& row) = nullptr;
};

// The messages at a path through fields, some of which may be repeated.
std::vector<const google::protobuf::Message*> RowsOf(const google::protobuf::Message& message,
                                                     const std::string& path);

// A field for people: sizes with units, enumeration values as words, times in UTC, names of pools,
// channels and sessions without their collection; of a list its length.
std::string ValueText(const google::protobuf::Message& message, const Column& column);

std::string TableText(const google::protobuf::Message& response, const Section& section);

// As grpcurl prints it, on one line or several. False: it cannot be written as JSON.
bool ToJson(const google::protobuf::Message& message, bool one_line, std::string* text);

// The same fields as YAML; numbers of 64 bits are numbers.
std::string ToYamlText(const google::protobuf::Message& message);

// On standard output, in a format other than kTable; the exit code.
int PrintMessage(const google::protobuf::Message& message, Format format);

// "pool-exhausted" of a value of an enumeration; its number if it has no name.
std::string WordOf(const google::protobuf::EnumDescriptor& type, int number);

// "12.3 s"; "-" for none.
std::string DurationText(const google::protobuf::Message& duration);

// "2026-01-31T12:00:00Z"
std::string TimeText(const google::protobuf::Message& timestamp);
// "2026-01-31T12:00:00.042Z"
std::string PreciseTimeText(const google::protobuf::Message& timestamp);

}  // namespace zerocp::cli
