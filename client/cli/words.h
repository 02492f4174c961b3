// The words that are one call of the daemon each, as data: what they take, call and show.
#pragma once

#include <google/protobuf/message.h>

#include <string>
#include <vector>

#include "client/cli/daemon_connection.h"
#include "client/cli/render.h"

namespace zerocp::cli {

// An argument or option, which sets a field of the request.
struct Argument {
  const char* name;   // "NAME", "[NAME]" if it may be left out, "--option"
  const char* field;  // "pool_id", "pool.chunk_count"
  const char* about;
  const char* collection = "";  // "pools/": of the resource that is named
  bool required = false;        // of an option
  int64_t least = 0;            // of a number, as `most`; 0: the type's
  int64_t most = 0;
};

struct Word {
  const char* path;  // "pools", "pools create"
  const char* about;
  const char* service;
  const char* method;
  std::vector<Argument> arguments;
  std::vector<Section> sections;
  std::vector<const char*> examples;  // what follows "zerocp "
  std::string notes = {};
  double patience_s = kPatience_s;
  // A last line; the request says what was asked for.
  std::string (*summary)(const google::protobuf::Message& request,
                         const google::protobuf::Message& response) = nullptr;
  // What the answer says of the exit code; nullptr: kDone.
  ExitCode (*verdict)(const google::protobuf::Message& response) = nullptr;
};

const std::vector<Word>& Words();
// REQUIRES: there is one.
const Word& WordNamed(const std::string& path);

// Calls the daemon and prints its answer; the exit code.
int Run(const Word& word, const google::protobuf::Message& request, const DaemonOptions& daemon);

// All of an answer as tables and the last line.
std::string TextOf(const Word& word, const google::protobuf::Message& request,
                   const google::protobuf::Message& response);
// In the format that is asked for; the exit code.
int Show(const Word& word, const google::protobuf::Message& request,
         const google::protobuf::Message& response, Format format);

// An empty request of the word's method.
std::unique_ptr<google::protobuf::Message> NewRequest(const Word& word);
// Sets the field at a path from text. A resource has two names, "video" and "pools/video". What is
// wrong with the text; empty: nothing.
std::string SetField(google::protobuf::Message* message, const Argument& argument,
                     const std::string& text);
// The field that an argument sets.
const google::protobuf::FieldDescriptor& FieldOf(const Word& word, const Argument& argument);
// "wait", "drop-oldest": what an argument may be if it is an enumeration's value; else empty.
std::vector<std::string> ChoicesOf(const google::protobuf::FieldDescriptor& field);

}  // namespace zerocp::cli
