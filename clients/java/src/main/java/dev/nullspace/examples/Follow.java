package dev.nullspace.examples;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import dev.nullspace.v1.AttachCommandRequest;
import dev.nullspace.v1.AttachCommandResponse;
import dev.nullspace.v1.AttachOpen;
import dev.nullspace.v1.CloseInput;
import dev.nullspace.v1.CommandServiceGrpc;
import dev.nullspace.v1.CommandServiceGrpc.CommandServiceStub;
import dev.nullspace.v1.CommandSpec;
import dev.nullspace.v1.CreateSandboxRequest;
import dev.nullspace.v1.DestroySandboxRequest;
import dev.nullspace.v1.Exit;
import dev.nullspace.v1.InputAccepted;
import dev.nullspace.v1.InputChunk;
import dev.nullspace.v1.LifetimePolicy;
import dev.nullspace.v1.LogPosition;
import dev.nullspace.v1.OutputAck;
import dev.nullspace.v1.OutputChunk;
import dev.nullspace.v1.OutputStream;
import dev.nullspace.v1.Overflow;
import dev.nullspace.v1.Sandbox;
import dev.nullspace.v1.SandboxServiceGrpc;
import dev.nullspace.v1.SandboxSpec;
import io.grpc.Deadline;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import io.grpc.stub.MetadataUtils;
import java.io.IOException;
import java.net.URI;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.Locale;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;

/**
 * Runs a shell command in a new sandbox, feeds it what comes on standard input, and follows its
 * output to the end. Connections may break meanwhile: no byte is lost and none comes twice.
 *
 * <pre>NULLSPACE_API_URL=… NULLSPACE_API_KEY=… java -jar target/follow.jar COMMAND &lt;input</pre>
 */
public final class Follow {
  /** All of it, however often connections break. */
  private static final long TOTAL_SECONDS = 300;
  private static final long CREATE_SECONDS = 60;
  /** Should this program die, its sandbox ends by itself. */
  private static final long SANDBOX_LIFETIME_SECONDS = 600;
  private static final long DESTROY_SECONDS = 30;
  private static final long FIRST_PAUSE_MILLIS = 20;
  private static final long LONGEST_PAUSE_MILLIS = 1_000;
  private static final int INPUT_CHUNK = 64 << 10;
  /** The contract asks a holder for an acknowledgement every 256 KiB. */
  private static final long ACK_EVERY = 128 << 10;

  private final CommandServiceStub commands;
  private final String sandboxId;
  private final String commandId = "cmd_" + UUID.randomUUID();
  private final String clientId = "follow_" + UUID.randomUUID();
  private final String line;
  private final ByteString input;

  // What outlives a stream: where output and input stand.
  private final MessageDigest stdout = sha256();
  private final MessageDigest stderr = sha256();
  private String executionId = "";
  private long received;
  private int attaches;
  /** Whether the last stream brought anything. */
  private boolean answered;

  private Follow(ManagedChannel channel, Deadline deadline, String sandboxId, String line, ByteString input) {
    this.commands = CommandServiceGrpc.newStub(channel).withDeadline(deadline);
    this.sandboxId = sandboxId;
    this.line = line;
    this.input = input;
  }

  public static void main(String[] arguments) {
    if (arguments.length != 1) {
      System.err.println("usage: follow COMMAND <input");
      System.exit(2);
    }
    try {
      System.out.println(run(arguments[0]));
    } catch (Exception error) {
      System.err.println("follow: " + explain(error));
      System.exit(1);
    }
  }

  private static String run(String line) throws Exception {
    ManagedChannel channel = connect(System.getenv("NULLSPACE_API_URL"), System.getenv("NULLSPACE_API_KEY"));
    try {
      ByteString input = ByteString.readFrom(System.in);
      String sandboxId = create(channel).getId();
      System.err.println("sandbox " + sandboxId);
      try {
        Deadline deadline = Deadline.after(TOTAL_SECONDS, TimeUnit.SECONDS);
        Follow follow = new Follow(channel, deadline, sandboxId, line, input);
        Exit exit = retry(channel, deadline, follow::attach, () -> follow.answered);
        return follow.summary(exit);
      } finally {
        destroy(channel, sandboxId);
      }
    } finally {
      channel.shutdownNow();
    }
  }

  private static ManagedChannel connect(String address, String key) {
    URI uri = address == null ? URI.create("") : URI.create(address);
    boolean plaintext = "http".equals(uri.getScheme());
    if (uri.getAuthority() == null || !(plaintext || "https".equals(uri.getScheme()))) {
      throw new IllegalArgumentException(
          "NULLSPACE_API_URL is \"" + address + "\", not http://HOST:PORT or https://HOST:PORT");
    }
    if (key == null || key.isEmpty()) {
      throw new IllegalArgumentException("NULLSPACE_API_KEY is not set");
    }
    Metadata headers = new Metadata();
    headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + key);
    ManagedChannelBuilder<?> builder =
        ManagedChannelBuilder.forTarget(uri.getAuthority())
            .intercept(MetadataUtils.newAttachHeadersInterceptor(headers))
            // A connection that has died without a word is noticed.
            .keepAliveTime(10, TimeUnit.SECONDS)
            .keepAliveTimeout(5, TimeUnit.SECONDS);
    return (plaintext ? builder.usePlaintext() : builder).build();
  }

  /** The key makes it safe to repeat: the first call that arrives makes the sandbox. */
  private static Sandbox create(ManagedChannel channel) throws Exception {
    Deadline deadline = Deadline.after(CREATE_SECONDS, TimeUnit.SECONDS);
    var sandboxes = SandboxServiceGrpc.newBlockingStub(channel).withDeadline(deadline);
    var lifetime =
        LifetimePolicy.newBuilder().setTimeout(Duration.newBuilder().setSeconds(SANDBOX_LIFETIME_SECONDS));
    var request =
        CreateSandboxRequest.newBuilder()
            .setIdempotencyKey(UUID.randomUUID().toString())
            .setSpec(SandboxSpec.newBuilder().setLifetime(lifetime))
            .build();
    return retry(channel, deadline, () -> sandboxes.createSandbox(request), () -> false).getSandbox();
  }

  private static void destroy(ManagedChannel channel, String sandboxId) throws Exception {
    Deadline deadline = Deadline.after(DESTROY_SECONDS, TimeUnit.SECONDS);
    var sandboxes = SandboxServiceGrpc.newBlockingStub(channel).withDeadline(deadline);
    var request = DestroySandboxRequest.newBuilder().setSandboxId(sandboxId).build();
    retry(channel, deadline, () -> sandboxes.destroySandbox(request), () -> false);
  }

  /** Follows the command over one stream. */
  private Exit attach() throws Exception {
    attaches++;
    Attach attach = new Attach();
    commands.attachCommand(attach).onNext(AttachCommandRequest.newBuilder().setOpen(open()).build());
    try {
      return attach.end.get();
    } catch (ExecutionException error) {
      throw error.getCause() instanceof Exception cause ? cause : error;
    }
  }

  /**
   * One stream. gRPC calls it with one frame after the other, and all that is sent answers one of
   * them. Sending does not block: what waits to leave is bounded by the window that the agent gives.
   */
  private final class Attach implements ClientResponseObserver<AttachCommandRequest, AttachCommandResponse> {
    private final CompletableFuture<Exit> end = new CompletableFuture<>();
    private ClientCallStreamObserver<AttachCommandRequest> requests;
    private Exit exit;
    private long acknowledged = received;
    private long sent = -1; // Unknown until the first InputAccepted.
    private boolean inputDone;

    @Override
    public void beforeStart(ClientCallStreamObserver<AttachCommandRequest> requests) {
      this.requests = requests;
      answered = false;
    }

    @Override
    public void onNext(AttachCommandResponse response) {
      answered = true;
      try {
        take(response);
      } catch (IOException error) {
        end.completeExceptionally(error);
        requests.cancel("output is not what it should be", error);
      }
    }

    @Override
    public void onError(Throwable error) {
      end.completeExceptionally(error);
    }

    @Override
    public void onCompleted() {
      if (exit == null) {
        onError(Status.UNAVAILABLE.withDescription("the stream ended without an exit").asRuntimeException());
      } else {
        end.complete(exit);
      }
    }

    private void take(AttachCommandResponse response) throws IOException {
      switch (response.getFrameCase()) {
        case STARTED -> executionId = response.getStarted().getExecutionId();
        case OUTPUT -> {
          Follow.this.take(response.getOutput());
          if (received - acknowledged >= ACK_EVERY) {
            acknowledged = received;
            var ack = OutputAck.newBuilder().setOffset(received);
            requests.onNext(AttachCommandRequest.newBuilder().setAck(ack).build());
          }
        }
        case TRUNCATED -> throw new IOException("output below " + response.getTruncated().getOffset() + " is gone");
        case INPUT_ACCEPTED -> feed(response.getInputAccepted());
        // A process may leave input unread; that is its business.
        case INPUT_CLOSED -> inputDone = true;
        case EXIT -> {
          exit = response.getExit();
          if (exit.getOutputBytes() != received) {
            throw new IOException("the log has " + exit.getOutputBytes() + " bytes, " + received + " came");
          }
        }
        default -> {} // A keepalive.
      }
    }

    private void feed(InputAccepted accepted) {
      if (inputDone) {
        return;
      }
      if (sent < 0) {
        sent = accepted.getOffset();
      }
      long limit = Math.min(accepted.getOffset() + accepted.getWindowBytes(), input.size());
      while (sent < limit) {
        ByteString data = input.substring((int) sent, (int) Math.min(sent + INPUT_CHUNK, limit));
        var chunk = InputChunk.newBuilder().setOffset(sent).setData(data);
        requests.onNext(AttachCommandRequest.newBuilder().setInput(chunk).build());
        sent += data.size();
      }
      if (sent == input.size()) {
        inputDone = true;
        var close = CloseInput.newBuilder().setOffset(sent);
        requests.onNext(AttachCommandRequest.newBuilder().setCloseInput(close).build());
      }
    }
  }

  private AttachOpen.Builder open() {
    // The same each time: it starts the command if no attach before did.
    var start = CommandSpec.newBuilder().setShell(line).setOpenStdin(true).setOverflow(Overflow.OVERFLOW_BLOCK);
    var open =
        AttachOpen.newBuilder()
            .setSandboxId(sandboxId)
            .setCommandId(commandId)
            .setStart(start)
            .setHold(true)
            .setClientId(clientId);
    if (!executionId.isEmpty()) {
      open.setPosition(LogPosition.newBuilder().setExecutionId(executionId).setOffset(received));
    }
    return open;
  }

  private void take(OutputChunk chunk) throws IOException {
    if (chunk.getOffset() != received) {
      throw new IOException("output goes on at " + chunk.getOffset() + ", not at " + received);
    }
    received += chunk.getData().size();
    var into = chunk.getStream() == OutputStream.OUTPUT_STREAM_STDERR ? stderr : stdout;
    into.update(chunk.getData().asReadOnlyByteBuffer());
  }

  private String summary(Exit exit) {
    int code = exit.hasSignal() ? 128 + exit.getSignal() : exit.getCode(); // As shells say it.
    return String.format(
        Locale.ROOT,
        """
        {"language":"java","output_bytes":%d,"sha256_stdout":"%s","sha256_stderr":"%s","attaches":%d,"exit_code":%d}\
        """,
        received,
        HexFormat.of().formatHex(stdout.digest()),
        HexFormat.of().formatHex(stderr.digest()),
        attaches,
        code);
  }

  private interface Call<T> {
    T run() throws Exception;
  }

  /**
   * Repeats a call while connections break. Pauses double, and are short again after a call that was
   * answered at all.
   */
  private static <T> T retry(ManagedChannel channel, Deadline deadline, Call<T> call, Call<Boolean> answered)
      throws Exception {
    for (long pause = FIRST_PAUSE_MILLIS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MILLIS)) {
      try {
        return call.run();
      } catch (StatusRuntimeException error) {
        if (!isBroken(error) || deadline.timeRemaining(TimeUnit.MILLISECONDS) < pause) {
          throw error;
        }
      }
      if (answered.run()) {
        pause = FIRST_PAUSE_MILLIS;
      }
      Thread.sleep(pause);
      // The channel has pauses of its own, which begin at a second.
      channel.resetConnectBackoff();
    }
  }

  /**
   * Tells a lost connection from an answer. Every error that Nullspace answers with has an
   * ErrorInfo; what gRPC makes of a connection that broke has none.
   */
  private static boolean isBroken(StatusRuntimeException error) {
    return switch (error.getStatus().getCode()) {
      case UNAVAILABLE -> true;
      case INTERNAL, UNKNOWN, CANCELLED -> reason(error).isEmpty();
      default -> false;
    };
  }

  private static String reason(Throwable error) {
    com.google.rpc.Status status = StatusProto.fromThrowable(error);
    if (status != null) {
      for (Any detail : status.getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          try {
            return detail.unpack(ErrorInfo.class).getReason();
          } catch (InvalidProtocolBufferException malformed) {
            return "";
          }
        }
      }
    }
    return "";
  }

  private static String explain(Exception error) {
    String reason = reason(error);
    if (!reason.isEmpty()) {
      return reason + ": " + Status.fromThrowable(error).getDescription();
    }
    return error.getCause() == null ? error.getMessage() : error.getMessage() + ": " + error.getCause().getMessage();
  }

  private static MessageDigest sha256() {
    try {
      return MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException impossible) {
      throw new AssertionError(impossible); // Every Java has it.
    }
  }
}
