// Runs a shell command in a new sandbox, feeds it what comes on standard input,
// and follows its output to the end. Connections may break meanwhile: no byte is
// lost and none comes twice.
//
//     NULLSPACE_API_URL=… NULLSPACE_API_KEY=… build/follow COMMAND <input

#include <grpcpp/grpcpp.h>
#include <openssl/evp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "nullspace/v1/command.grpc.pb.h"
#include "nullspace/v1/sandbox.grpc.pb.h"

namespace {

using namespace std::chrono_literals;
namespace v1 = nullspace::v1;
using Clock = std::chrono::system_clock;

// All of it, however often connections break.
constexpr auto kTotal = 5min;
constexpr auto kCreate = 1min;
// Should this program die, its sandbox ends by itself.
constexpr std::chrono::seconds kSandboxLifetime = 10min;
constexpr auto kDestroy = 30s;
constexpr std::chrono::milliseconds kFirstPause = 20ms;
constexpr std::chrono::milliseconds kLongestPause = 1s;
constexpr std::int64_t kInputChunk = 64 << 10;
// The contract asks a holder for an acknowledgement every 256 KiB.
constexpr std::int64_t kAckEvery = 128 << 10;

std::string Reason(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  if (details.ParseFromString(status.error_details())) {
    for (const auto& detail : details.details()) {
      if (detail.UnpackTo(&info)) return info.reason();
    }
  }
  return "";
}

// Tells a lost connection from an answer. Every error that Nullspace answers
// with has an ErrorInfo; what gRPC makes of a connection that broke has none.
bool IsBroken(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return true;
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::CANCELLED:
      return Reason(status).empty();
    default:
      return false;
  }
}

void Check(const grpc::Status& status) {
  if (status.ok()) return;
  const std::string reason = Reason(status);
  throw std::runtime_error(reason.empty() ? status.error_message() : reason + ": " + status.error_message());
}

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') throw std::runtime_error(std::string(name) + " is not set");
  return value;
}

std::string Random() {
  std::random_device random;
  std::ostringstream text;
  for (int i = 0; i < 4; ++i) text << std::hex << std::setfill('0') << std::setw(8) << random();
  return text.str();
}

class Sha256 {
 public:
  Sha256() { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }

  void Update(const std::string& data) { EVP_DigestUpdate(context_.get(), data.data(), data.size()); }

  std::string Hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(), digest, &size);
    std::ostringstream text;
    for (unsigned int i = 0; i < size; ++i) text << std::hex << std::setfill('0') << std::setw(2) << int{digest[i]};
    return text.str();
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_{EVP_MD_CTX_new(), EVP_MD_CTX_free};
};

// The server, and how to call it.
class Server {
 public:
  explicit Server(const std::string& url, std::string key) : key_(std::move(key)) {
    const auto scheme = url.substr(0, url.find("://"));
    if (scheme == url || (scheme != "http" && scheme != "https")) {
      throw std::runtime_error("NULLSPACE_API_URL is \"" + url + "\", not http://HOST:PORT or https://HOST:PORT");
    }
    auto host = url.substr(scheme.size() + 3);
    host = host.substr(0, host.find('/'));
    grpc::ChannelArguments arguments;
    // A connection that has died without a word is noticed.
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstPause.count());
    // In spite of its name this is how long an attempt to connect may take.
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5'000);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kLongestPause.count());
    const auto credentials = scheme == "https" ? grpc::SslCredentials({}) : grpc::InsecureChannelCredentials();
    channel_ = grpc::CreateCustomChannel(host, credentials, arguments);
  }

  std::shared_ptr<grpc::Channel> channel() const { return channel_; }

  std::unique_ptr<grpc::ClientContext> Call(Clock::time_point deadline) const {
    auto context = std::make_unique<grpc::ClientContext>();
    context->AddMetadata("authorization", "Bearer " + key_);
    context->set_deadline(deadline);
    return context;
  }

 private:
  std::string key_;
  std::shared_ptr<grpc::Channel> channel_;
};

// Repeats a call while connections break. Pauses double, and are short again
// after a call that was answered at all.
void Retry(Clock::time_point deadline, const std::function<grpc::Status()>& call, const bool& answered) {
  auto pause = kFirstPause;
  for (;;) {
    const auto status = call();
    if (!IsBroken(status) || Clock::now() + pause > deadline) return Check(status);
    if (answered) pause = kFirstPause;
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, kLongestPause);
  }
}

// The key makes it safe to repeat: the first call that arrives makes the
// sandbox, and the others get the same answer.
std::string Create(const Server& server) {
  const auto sandboxes = v1::SandboxService::NewStub(server.channel());
  const auto deadline = Clock::now() + kCreate;
  v1::CreateSandboxRequest request;
  request.set_idempotency_key(Random());
  request.mutable_spec()->mutable_lifetime()->mutable_timeout()->set_seconds(kSandboxLifetime.count());
  v1::CreateSandboxResponse response;
  Retry(deadline, [&] { return sandboxes->CreateSandbox(server.Call(deadline).get(), request, &response); }, false);
  return response.sandbox().id();
}

void Destroy(const Server& server, const std::string& id) {
  const auto sandboxes = v1::SandboxService::NewStub(server.channel());
  const auto deadline = Clock::now() + kDestroy;
  v1::DestroySandboxRequest request;
  request.set_sandbox_id(id);
  v1::DestroySandboxResponse response;
  Retry(deadline, [&] { return sandboxes->DestroySandbox(server.Call(deadline).get(), request, &response); }, false);
}

// What outlives a stream: where output and input stand.
class Follower {
 public:
  Follower(const Server& server, std::string sandbox_id, std::string line, std::string input)
      : server_(server),
        commands_(v1::CommandService::NewStub(server.channel())),
        sandbox_id_(std::move(sandbox_id)),
        line_(std::move(line)),
        input_(std::move(input)) {}

  void Follow(Clock::time_point deadline) {
    Retry(deadline, [&] { return Attach(deadline); }, answered_);
  }

  std::string Summary() {
    // After a signal as shells say it.
    const int code = exit_.has_signal() ? 128 + exit_.signal() : exit_.code();
    std::ostringstream json;
    json << R"({"language":"cpp","output_bytes":)" << received_ << R"(,"sha256_stdout":")" << stdout_hash_.Hex()
         << R"(","sha256_stderr":")" << stderr_hash_.Hex() << R"(","attaches":)" << attaches_
         << R"(,"exit_code":)" << code << "}";
    return json.str();
  }

 private:
  using Stream = grpc::ClientReaderWriter<v1::AttachCommandRequest, v1::AttachCommandResponse>;

  // Follows the command over one stream. All that is sent answers something that
  // came, and input stays within the window that the agent gives, so that a
  // write cannot block for long and one thread does both. A write that fails
  // needs no care: the read after it fails as well, and Finish says why.
  grpc::Status Attach(Clock::time_point deadline) {
    ++attaches_;
    answered_ = false;
    acknowledged_ = received_;
    sent_ = -1;  // Unknown until the first InputAccepted.
    input_done_ = false;
    const auto context = server_.Call(deadline);
    const auto stream = commands_->AttachCommand(context.get());
    stream->Write(Open());
    bool ended = false;
    v1::AttachCommandResponse response;
    while (stream->Read(&response)) {
      answered_ = true;
      ended = Take(*stream, response);
    }
    const auto status = stream->Finish();
    if (ended || !status.ok()) return ended ? grpc::Status::OK : status;
    return {grpc::StatusCode::UNAVAILABLE, "the stream ended without an exit"};
  }

  v1::AttachCommandRequest Open() const {
    v1::AttachCommandRequest request;
    auto& open = *request.mutable_open();
    open.set_sandbox_id(sandbox_id_);
    open.set_command_id(command_id_);
    open.set_client_id(client_id_);
    open.set_hold(true);
    // The same each time: it starts the command if no attach before did.
    open.mutable_start()->set_shell(line_);
    open.mutable_start()->set_open_stdin(true);
    open.mutable_start()->set_overflow(v1::OVERFLOW_BLOCK);
    if (!execution_id_.empty()) {
      open.mutable_position()->set_execution_id(execution_id_);
      open.mutable_position()->set_offset(received_);
    }
    return request;
  }

  // Gives whether this was the last frame.
  bool Take(Stream& stream, const v1::AttachCommandResponse& response) {
    switch (response.frame_case()) {
      case v1::AttachCommandResponse::kStarted:
        execution_id_ = response.started().execution_id();
        break;
      case v1::AttachCommandResponse::kOutput:
        Take(response.output());
        if (received_ - acknowledged_ >= kAckEvery) {
          acknowledged_ = received_;
          v1::AttachCommandRequest request;
          request.mutable_ack()->set_offset(acknowledged_);
          stream.Write(request);
        }
        break;
      case v1::AttachCommandResponse::kTruncated:
        throw std::runtime_error("output below " + std::to_string(response.truncated().offset()) + " is gone");
      case v1::AttachCommandResponse::kInputAccepted:
        Feed(stream, response.input_accepted());
        break;
      case v1::AttachCommandResponse::kInputClosed:
        // A process may leave input unread; that is its business.
        input_done_ = true;
        break;
      case v1::AttachCommandResponse::kExit:
        exit_ = response.exit();
        if (exit_.output_bytes() != received_) {
          throw std::runtime_error("the log has " + std::to_string(exit_.output_bytes()) + " bytes, " +
                                   std::to_string(received_) + " came");
        }
        return true;
      default:  // A keepalive.
        break;
    }
    return false;
  }

  void Take(const v1::OutputChunk& chunk) {
    if (chunk.offset() != received_) {
      throw std::runtime_error("output goes on at " + std::to_string(chunk.offset()) + ", not at " +
                               std::to_string(received_));
    }
    received_ += static_cast<std::int64_t>(chunk.data().size());
    (chunk.stream() == v1::OUTPUT_STREAM_STDERR ? stderr_hash_ : stdout_hash_).Update(chunk.data());
  }

  void Feed(Stream& stream, const v1::InputAccepted& accepted) {
    if (input_done_) return;
    const auto size = static_cast<std::int64_t>(input_.size());
    if (sent_ < 0) sent_ = accepted.offset();
    const auto end = std::min(accepted.offset() + accepted.window_bytes(), size);
    v1::AttachCommandRequest request;
    while (sent_ < end) {
      auto& chunk = *request.mutable_input();
      chunk.set_offset(sent_);
      chunk.set_data(input_.substr(sent_, std::min(kInputChunk, end - sent_)));
      sent_ += static_cast<std::int64_t>(chunk.data().size());
      stream.Write(request);
    }
    if (sent_ == size) {
      input_done_ = true;
      request.mutable_close_input()->set_offset(sent_);
      stream.Write(request);
    }
  }

  const Server& server_;
  const std::unique_ptr<v1::CommandService::Stub> commands_;
  const std::string sandbox_id_;
  const std::string command_id_ = "cmd_" + Random();
  const std::string client_id_ = "follow_" + Random();
  const std::string line_;
  const std::string input_;

  std::string execution_id_;
  std::int64_t received_ = 0;
  Sha256 stdout_hash_;
  Sha256 stderr_hash_;
  int attaches_ = 0;
  v1::Exit exit_;

  // Of the stream that runs, or ran last.
  bool answered_ = false;
  std::int64_t acknowledged_ = 0;
  std::int64_t sent_ = -1;
  bool input_done_ = false;
};

std::string Run(const std::string& line) {
  const Server server(Variable("NULLSPACE_API_URL"), Variable("NULLSPACE_API_KEY"));
  std::string input(std::istreambuf_iterator<char>(std::cin), {});
  const auto sandbox_id = Create(server);
  std::cerr << "sandbox " << sandbox_id << std::endl;
  std::string summary;
  try {
    Follower follower(server, sandbox_id, line, std::move(input));
    follower.Follow(Clock::now() + kTotal);
    summary = follower.Summary();
  } catch (...) {
    Destroy(server, sandbox_id);
    throw;
  }
  Destroy(server, sandbox_id);
  return summary;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: follow COMMAND <input\n";
    return 2;
  }
  try {
    std::cout << Run(argv[1]) << "\n";
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "follow: " << error.what() << "\n";
    return 1;
  }
}
