// The peer: SimGrid's fluid network model on a platform and flows from dessim. Used by tests only.
//
//   peer routes FILE              any network: links, routes and flows from FILE; prints when each flow finished
//   peer platform XML FLOWS       flows from FLOWS between hosts gpu0, gpu1, ... of a platform file; prints the same
//   peer serve                    the same for each FILE whose name is read from standard input; "end" after each
//   peer two_level BED FLOWS      flows from the file FLOWS over two levels of switches; prints the same
//   peer two_level BED ring BYTES       ring all_reduce, 2(n-1) stages; prints when the last message arrived
//   peer two_level BED pairwise BYTES   all_to_all, n-1 stages; the same
//
// BED = HOSTS HOSTS_A_LEAF NIC_BYTES_PER_S LEAF_BYTES_PER_S LATENCY_S. A leaf's uplinks are one link of their sum, which is
// exact when traffic is split evenly over them: SimGrid has no split routes. One actor starts all flows, which is the
// cheapest method in SimGrid. Numbers are text, separated by blanks:
//   routes file   L, then L capacities; H; R, then R times: src dst n link_1 ... link_n; F, then F flows
//   flow          start_s bytes src dst
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <numeric>
#include <simgrid/s4u.hpp>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace sg = simgrid::s4u;

struct Flow {
  double start, bytes;
  unsigned long src, dst;
};

static std::vector<sg::Host*> hosts;

static const sg::Link* link_of(sg::NetZone* zone, const std::string& name, double bandwidth, double latency)
{
  return zone->add_link(name, bandwidth)->set_latency(latency);
}

static std::vector<Flow> read_flows(std::istream& in)
{
  size_t count = 0;
  in >> count;
  std::vector<Flow> flows(count);
  for (auto& flow : flows)
    in >> flow.start >> flow.bytes >> flow.src >> flow.dst;
  if (!in) {
    std::fprintf(stderr, "peer: the flows end too early\n");
    std::exit(2);
  }
  return flows;
}

static std::vector<Flow> build_routes(std::istream& in)
{
  auto* zone = sg::Engine::get_instance()->get_netzone_root()->add_netzone_full("network");
  size_t count = 0;
  in >> count;
  std::vector<const sg::Link*> links;
  for (size_t i = 0; i < count; ++i) {
    double capacity = 0;
    in >> capacity;
    links.push_back(link_of(zone, "link" + std::to_string(i), capacity, 0));
  }
  in >> count;
  for (size_t i = 0; i < count; ++i)
    hosts.push_back(zone->add_host("host" + std::to_string(i), 1e9));
  in >> count;
  for (size_t i = 0; i < count; ++i) {
    size_t src = 0, dst = 0, length = 0;
    in >> src >> dst >> length;
    std::vector<sg::LinkInRoute> route;
    for (size_t hop = 0; hop < length; ++hop) {
      size_t link = 0;
      in >> link;
      route.emplace_back(links.at(link)); // a link that is named twice counts twice: a weight of 2
    }
    zone->add_route(hosts.at(src), hosts.at(dst), route, false);
  }
  zone->seal();
  return read_flows(in);
}

// The flows of FLOWS; `hosts` then holds those of the platform that flows name, by number.
static std::vector<Flow> load_platform(const char* xml, const char* file)
{
  sg::Engine::get_instance()->load_platform(xml);
  std::ifstream in(file);
  auto flows = read_flows(in);
  for (const auto& flow : flows)
    for (unsigned long end : {flow.src, flow.dst}) {
      hosts.resize(std::max<size_t>(hosts.size(), end + 1), nullptr);
      hosts[end] = sg::Host::by_name("gpu" + std::to_string(end));
    }
  return flows;
}

static void build_two_level(char** bed)
{
  unsigned long n = std::strtoul(bed[0], nullptr, 10), per_leaf = std::strtoul(bed[1], nullptr, 10);
  double nic = std::atof(bed[2]), uplink = std::atof(bed[3]), latency = std::atof(bed[4]);
  auto* root = sg::Engine::get_instance()->get_netzone_root()->add_netzone_star("spines");
  for (unsigned long first = 0; first < n; first += per_leaf) {
    std::string name = "leaf" + std::to_string(first / per_leaf);
    auto* leaf       = root->add_netzone_star(name);
    leaf->set_gateway(leaf->add_router(name + "/switch"));
    for (unsigned long i = first; i < std::min(first + per_leaf, n); ++i) {
      std::string own = "host" + std::to_string(i);
      auto* host       = leaf->add_host(own, 1e9);
      const auto* up   = link_of(leaf, own + "/up", nic, latency);
      const auto* down = link_of(leaf, own + "/down", nic, latency);
      leaf->add_route(host, nullptr, {sg::LinkInRoute(up)}, false);
      leaf->add_route(nullptr, host, {sg::LinkInRoute(down)}, false);
      hosts.push_back(host);
    }
    leaf->seal();
    const auto* up   = link_of(root, name + "/up", uplink, latency);
    const auto* down = link_of(root, name + "/down", uplink, latency);
    root->add_route(leaf, nullptr, {sg::LinkInRoute(up)}, false);
    root->add_route(nullptr, leaf, {sg::LinkInRoute(down)}, false);
  }
  root->seal();
}

static void send(const std::vector<Flow>& flows)
{
  std::vector<size_t> order(flows.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return flows[a].start < flows[b].start; });
  std::vector<sg::CommPtr> comms(flows.size());
  sg::ActivitySet pending;
  for (size_t i : order) {
    sg::this_actor::sleep_until(flows[i].start);
    comms[i] = sg::Comm::sendto_async(hosts[flows[i].src], hosts[flows[i].dst], (uint64_t)flows[i].bytes);
    pending.push(comms[i]);
  }
  pending.wait_all();
  for (const auto& comm : comms)
    std::printf("%.17g\n", comm->get_finish_time());
}

static void stage(size_t shift, uint64_t bytes)
{
  sg::ActivitySet pending;
  for (size_t i = 0; i < hosts.size(); ++i)
    pending.push(sg::Comm::sendto_async(hosts[i], hosts[(i + shift) % hosts.size()], bytes));
  pending.wait_all();
}

static int run(int argc, char** argv)
{
  sg::Engine engine(&argc, argv); // takes the --cfg arguments out
  if (argc == 3 && not std::strcmp(argv[1], "routes")) {
    std::ifstream in(argv[2]);
    auto flows = build_routes(in);
    engine.add_actor("sender", hosts.at(0), [flows] { send(flows); });
  } else if (argc == 4 && not std::strcmp(argv[1], "platform")) {
    auto flows = load_platform(argv[2], argv[3]);
    engine.add_actor("sender", hosts.at(flows.at(0).src), [flows] { send(flows); });
  } else if (argc == 8 && not std::strcmp(argv[1], "two_level")) {
    build_two_level(argv + 2);
    std::ifstream in(argv[7]);
    auto flows = read_flows(in);
    engine.add_actor("sender", hosts.at(0), [flows] { send(flows); });
  } else if (argc == 9 && not std::strcmp(argv[1], "two_level")) {
    build_two_level(argv + 2);
    bool ring      = not std::strcmp(argv[7], "ring");
    uint64_t bytes = std::strtoull(argv[8], nullptr, 10);
    engine.add_actor("sender", hosts.at(0), [ring, bytes] {
      size_t n = hosts.size();
      for (size_t i = 1; i < n; ++i)
        stage(ring ? 1 : i, bytes);
      for (size_t i = 1; ring && i < n; ++i)
        stage(1, bytes);
      std::printf("%.17g\n", sg::Engine::get_clock());
    });
  } else {
    std::fprintf(stderr, "usage: peer routes FILE | peer two_level BED FLOWS | peer two_level BED ring|pairwise BYTES\n");
    return 2;
  }
  engine.run();
  return 0;
}

// SimGrid simulates once per process. Loading its libraries takes longer than a small simulation, so a process that has
// loaded them forks one per file.
static int serve(int argc, char** argv)
{
  std::string file;
  while (std::getline(std::cin, file)) {
    if (fork() == 0) {
      std::string mode = "routes";
      std::vector<char*> words(argv, argv + argc);
      words[1] = mode.data();
      words.insert(words.begin() + 2, file.data());
      int code = run(argc + 1, words.data());
      std::fflush(stdout);
      _exit(code);
    }
    int status = 0;
    wait(&status);
    std::printf(status == 0 ? "end\n" : "failed\n");
    std::fflush(stdout);
  }
  return 0;
}

int main(int argc, char** argv)
{
  return argc > 1 && not std::strcmp(argv[1], "serve") ? serve(argc, argv) : run(argc, argv);
}
