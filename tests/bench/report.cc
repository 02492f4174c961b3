#include "tests/bench/report.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iomanip>

namespace zerocp::bench {
namespace {

// The value of "model name" in /proc/cpuinfo.
std::string Processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

std::string Now() {
  char text[32];
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  (void)std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + '"';
}

void WriteMachine(std::ostream& out) {
  utsname system{};
  uname(&system);
  double load[1] = {0};
  (void)getloadavg(load, 1);
  out << "{\"processor\":" << Quoted(Processor()) << ",\"cores\":" << sysconf(_SC_NPROCESSORS_ONLN)
      << ",\"kernel\":" << Quoted(system.release) << ",\"date\":" << Quoted(Now())
      << ",\"load\":" << load[0] << "}";
}

void WriteResult(std::ostream& out, const Series& series) {
  out << "{\"work\":" << Quoted(series.work) << ",\"subject\":" << Quoted(series.subject)
      << ",\"processes\":" << series.processes << ",\"bytes\":" << series.bytes;
  if (!series.missing.empty()) {
    out << ",\"missing\":" << Quoted(series.missing) << "}";
    return;
  }
  std::vector<double> all = series.All();
  std::sort(all.begin(), all.end());
  const auto quantile = [&](double fraction) {
    return all[static_cast<size_t>(fraction * static_cast<double>(all.size() - 1))];
  };
  out << ",\"median_ns\":" << quantile(0.5) << ",\"p99_ns\":" << quantile(0.99)
      << ",\"p999_ns\":" << quantile(0.999) << ",\"samples\":" << all.size()
      << ",\"quantiles_ns\":[";  // at 0, 0.05 ... 0.95, 0.99, 0.999
  for (int step = 0; step < 20; ++step) out << quantile(step / 20.0) << ",";
  out << quantile(0.99) << "," << quantile(0.999) << "]}";
}

}  // namespace

std::vector<double> Series::All() const {
  std::vector<double> all;
  for (const auto& round : rounds) all.insert(all.end(), round.begin(), round.end());
  return all;
}

double Quantile(std::vector<double> samples, double fraction) {
  const auto index = static_cast<size_t>(fraction * static_cast<double>(samples.size() - 1));
  std::nth_element(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(index),
                   samples.end());
  return samples[index];
}

Ratio Compare(const Series& subject, const Series& against, const Goal& goal) {
  std::vector<double> ratios;
  for (size_t i = 0; i < subject.rounds.size(); ++i) {
    ratios.push_back(Quantile(subject.rounds[i], goal.quantile) /
                     Quantile(against.rounds[i], goal.quantile));
  }
  return {subject.work,
          against.subject + (goal.quantile == 0.99 ? ", p99" : ""),
          Quantile(ratios, 0.5),
          Quantile(ratios, 0.25),
          Quantile(ratios, 0.75),
          goal.goal,
          goal.limit == 0 ? 2 * goal.goal : goal.limit};
}

void PrintTable(const Report& report) {
  for (const Peer& peer : report.peers) {
    std::printf(
        "%-12s %s\n", peer.name.c_str(),
        peer.missing.empty() ? peer.configuration.c_str() : ("missing: " + peer.missing).c_str());
  }
  std::printf("%s%-36s %-20s %9s %9s %12s %12s %12s\n", report.peers.empty() ? "" : "\n", "work",
              "subject", "processes", "bytes", "median ns", "p99 ns", "p99.9 ns");
  for (const Series& series : report.results) {
    std::printf("%-36s %-20s %9d %9lld ", series.work.c_str(), series.subject.c_str(),
                series.processes, static_cast<long long>(series.bytes));
    if (!series.missing.empty()) {
      std::printf("missing: %s\n", series.missing.c_str());
      continue;
    }
    const std::vector<double> all = series.All();
    std::printf("%12.1f %12.1f %12.1f\n", Quantile(all, 0.5), Quantile(all, 0.99),
                Quantile(all, 0.999));
  }
  std::printf("\n%-36s %-20s %9s %19s %8s %6s\n", "work", "against", "ratio", "quartiles",
              "goal <=", "holds");
  for (const Ratio& ratio : report.ratios) {
    std::printf("%-36s %-20s %9.4f %9.4f %9.4f ", ratio.work.c_str(), ratio.against.c_str(),
                ratio.ratio, ratio.lower, ratio.upper);
    if (ratio.goal == 0) {
      std::printf("%8s\n", "-");
    } else {
      std::printf("%8.2f %6s\n", ratio.goal, ratio.holds() ? "yes" : "no");
    }
  }
  if (report.memory.empty()) return;
  std::printf("\n%-54s %-20s %12s\n", "memory", "subject", "bytes");
  for (const MemoryRow& row : report.memory)
    std::printf("%-54s %-20s %12lld\n", row.what.c_str(), row.subject.c_str(),
                static_cast<long long>(row.bytes));
}

bool WriteJson(const std::string& path, const Report& report) {
  std::ofstream out(path);
  out << std::setprecision(6) << "{\"machine\":";
  WriteMachine(out);
  out << ",\"peers\":[";
  const char* separator = "";
  for (const Peer& peer : report.peers) {
    out << separator << "\n{\"name\":" << Quoted(peer.name)
        << ",\"configuration\":" << Quoted(peer.configuration)
        << ",\"missing\":" << Quoted(peer.missing) << "}";
    separator = ",";
  }
  out << "],\"results\":[";
  separator = "\n";
  for (const Series& series : report.results) {
    out << separator;
    WriteResult(out, series);
    separator = ",\n";
  }
  out << "],\"ratios\":[";
  separator = "\n";
  for (const Ratio& ratio : report.ratios) {
    out << separator << "{\"work\":" << Quoted(ratio.work)
        << ",\"against\":" << Quoted(ratio.against) << ",\"ratio\":" << ratio.ratio
        << ",\"lower_quartile\":" << ratio.lower << ",\"upper_quartile\":" << ratio.upper;
    if (ratio.goal != 0)
      out << ",\"goal\":" << ratio.goal << ",\"holds\":" << (ratio.holds() ? "true" : "false");
    out << "}";
    separator = ",\n";
  }
  out << "],\"memory\":[";
  separator = "\n";
  for (const MemoryRow& row : report.memory) {
    out << separator << "{\"what\":" << Quoted(row.what) << ",\"subject\":" << Quoted(row.subject)
        << ",\"bytes\":" << row.bytes << "}";
    separator = ",\n";
  }
  out << "]}\n";
  if (!out.flush()) {
    std::fprintf(stderr, "cannot write %s: is its directory there, and not full?\n", path.c_str());
    return false;
  }
  return true;
}

}  // namespace zerocp::bench
