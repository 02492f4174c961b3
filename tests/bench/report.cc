#include "tests/bench/report.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
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

std::string Escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

double Quantile(std::vector<double> samples, double fraction) {
  const auto index = static_cast<size_t>(fraction * static_cast<double>(samples.size() - 1));
  std::nth_element(samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(index),
                   samples.end());
  return samples[index];
}

Ratio Compare(const Pair& pair, double goal, double limit) {
  const auto& [subject, against] = pair;
  std::vector<double> ratios;
  for (size_t i = 0; i < subject.samples.size(); ++i)
    ratios.push_back(subject.samples[i] / against.samples[i]);
  return {subject.work,
          against.subject,
          Quantile(ratios, 0.5),
          Quantile(ratios, 0.25),
          Quantile(ratios, 0.75),
          goal,
          limit};
}

void PrintTable(const std::vector<Series>& results, const std::vector<Ratio>& ratios) {
  std::printf("%-16s %-12s %9s %8s %12s %12s %12s\n", "work", "subject", "processes", "bytes",
              "median ns", "p99 ns", "p99.9 ns");
  for (const Series& series : results) {
    std::printf("%-16s %-12s %9d %8lld %12.1f %12.1f %12.1f\n", series.work.c_str(),
                series.subject.c_str(), series.processes, static_cast<long long>(series.bytes),
                Quantile(series.samples, 0.5), Quantile(series.samples, 0.99),
                Quantile(series.samples, 0.999));
  }
  std::printf("\n%-16s %-12s %8s %15s %8s %6s\n", "work", "against", "ratio", "quartiles",
              "goal <=", "holds");
  for (const Ratio& ratio : ratios) {
    std::printf("%-16s %-12s %8.2f %7.2f %7.2f %8.2f %6s\n", ratio.work.c_str(),
                ratio.against.c_str(), ratio.ratio, ratio.lower, ratio.upper, ratio.goal,
                ratio.holds() ? "yes" : "no");
  }
}

bool WriteJson(const std::string& path, const std::vector<Series>& results,
               const std::vector<Ratio>& ratios) {
  utsname system{};
  uname(&system);
  std::ofstream out(path);
  out << std::setprecision(6) << "{\"machine\":{\"processor\":\"" << Escaped(Processor())
      << "\",\"cores\":" << sysconf(_SC_NPROCESSORS_ONLN) << ",\"kernel\":\""
      << Escaped(system.release) << "\"},\"results\":[";
  const char* separator = "";
  for (const Series& series : results) {
    out << separator << "{\"work\":\"" << series.work << "\",\"subject\":\"" << series.subject
        << "\",\"processes\":" << series.processes << ",\"bytes\":" << series.bytes
        << ",\"median_ns\":" << Quantile(series.samples, 0.5)
        << ",\"p99_ns\":" << Quantile(series.samples, 0.99)
        << ",\"p999_ns\":" << Quantile(series.samples, 0.999) << "}";
    separator = ",";
  }
  out << "],\"ratios\":[";
  separator = "";
  for (const Ratio& ratio : ratios) {
    out << separator << "{\"work\":\"" << ratio.work << "\",\"against\":\"" << ratio.against
        << "\",\"ratio\":" << ratio.ratio << ",\"lower_quartile\":" << ratio.lower
        << ",\"upper_quartile\":" << ratio.upper << ",\"goal\":" << ratio.goal
        << ",\"holds\":" << (ratio.holds() ? "true" : "false") << "}";
    separator = ",";
  }
  out << "]}\n";
  if (!out.flush()) {
    std::fprintf(stderr, "zerocp_bench: cannot write %s\n", path.c_str());
    return false;
  }
  return true;
}

}  // namespace zerocp::bench
