// Runs a shell command in a new sandbox, feeds it what comes on standard input,
// and follows its output to the end. Connections may break meanwhile: no byte is
// lost and none comes twice.
//
//     NULLSPACE_API_URL=… NULLSPACE_API_KEY=… node build/follow.js COMMAND <input

import { createHash, randomUUID } from "node:crypto";
import { buffer } from "node:stream/consumers";
import { setTimeout as pause } from "node:timers/promises";

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import {
  type AttachCommandRequest,
  AttachCommandRequestSchema,
  CommandService,
  type Exit,
  Overflow,
} from "./gen/nullspace/v1/command_pb.js";
import { SandboxService } from "./gen/nullspace/v1/sandbox_pb.js";
import { type InputAccepted, type OutputChunk, OutputStream } from "./gen/nullspace/v1/stream_pb.js";

// All of it, however often connections break.
const TOTAL_MS = 300_000;
const CREATE_MS = 60_000;
// Should this program die, its sandbox ends by itself.
const SANDBOX_LIFETIME = { seconds: 600n };
const DESTROY_MS = 30_000;
const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 1_000;
const INPUT_CHUNK = 64 * 1024;
// The contract asks a holder for an acknowledgement every 256 KiB.
const ACK_EVERY = 128n * 1024n;

async function run(line: string): Promise<void> {
  const transport = connect();
  const input = await buffer(process.stdin);
  const sandboxes = createClient(SandboxService, transport);

  const signal = AbortSignal.timeout(CREATE_MS);
  const request = {
    // It makes the call safe to repeat: the first one that arrives makes the
    // sandbox, and the others get the same answer.
    idempotencyKey: randomUUID(),
    spec: { lifetime: { timeout: SANDBOX_LIFETIME } },
  };
  const created = await retry(signal, () => sandboxes.createSandbox(request, { signal }));
  const sandboxId = created.sandbox?.id ?? "";
  console.error("sandbox", sandboxId);

  let result: object;
  try {
    const follower = new Follower(createClient(CommandService, transport), sandboxId, line, input);
    result = await follower.follow(AbortSignal.timeout(TOTAL_MS));
  } finally {
    const signal = AbortSignal.timeout(DESTROY_MS);
    await retry(signal, () => sandboxes.destroySandbox({ sandboxId }, { signal }));
  }
  console.log(JSON.stringify(result));
}

function connect() {
  const url = process.env["NULLSPACE_API_URL"] ?? "";
  if (!/^https?:\/\/[^/]+\/?$/.test(url)) {
    throw new Error(`NULLSPACE_API_URL is "${url}", not http://HOST:PORT or https://HOST:PORT`);
  }
  const key = process.env["NULLSPACE_API_KEY"];
  if (!key) {
    throw new Error("NULLSPACE_API_KEY is not set");
  }
  return createGrpcTransport({
    baseUrl: url,
    interceptors: [
      (next) => (request) => {
        request.header.set("authorization", `Bearer ${key}`);
        return next(request);
      },
    ],
    // A connection that has died without a word is noticed.
    pingIntervalMs: 10_000,
    pingTimeoutMs: 5_000,
  });
}

type Frame = MessageInitShape<typeof AttachCommandRequestSchema>["frame"];

// What outlives a stream: where output and input stand.
class Follower {
  private readonly commandId = `cmd_${randomUUID()}`;
  private readonly clientId = `follow_${randomUUID()}`;
  private readonly stdout = createHash("sha256");
  private readonly stderr = createHash("sha256");
  private executionId = "";
  private received = 0n;
  private attaches = 0;
  private exit: Exit | undefined;
  // Whether the stream that runs, or ran last, brought anything.
  private answered = false;

  constructor(
    private readonly commands: Client<typeof CommandService>,
    private readonly sandboxId: string,
    private readonly line: string,
    private readonly input: Uint8Array,
  ) {}

  async follow(signal: AbortSignal): Promise<object> {
    await retry(
      signal,
      () => this.attach(signal),
      () => this.answered,
    );
    const outcome = this.exit?.outcome;
    return {
      language: "typescript",
      // Far below 2^53.
      output_bytes: Number(this.received),
      sha256_stdout: this.stdout.digest("hex"),
      sha256_stderr: this.stderr.digest("hex"),
      attaches: this.attaches,
      // After a signal as shells say it.
      exit_code: outcome?.case === "signal" ? 128 + outcome.value : outcome?.value,
    };
  }

  // Follows the command over one stream. All that is sent answers something that
  // came, and input stays within the window that the agent gives: what waits in
  // `requests` is bounded by that window.
  private async attach(signal: AbortSignal): Promise<void> {
    this.answered = false;
    this.attaches += 1;
    const requests = new Requests();
    requests.send({
      case: "open",
      value: {
        sandboxId: this.sandboxId,
        commandId: this.commandId,
        // The same each time: it starts the command if no attach before did.
        start: {
          program: { case: "shell", value: this.line },
          openStdin: true,
          overflow: Overflow.BLOCK,
        },
        position: this.executionId ? { executionId: this.executionId, offset: this.received } : undefined,
        hold: true,
        clientId: this.clientId,
      },
    });
    let sent: number | undefined;
    let inputDone = false;
    let acknowledged = this.received;
    try {
      for await (const { frame } of this.commands.attachCommand(requests, { signal })) {
        this.answered = true;
        switch (frame.case) {
          case "started":
            this.executionId = frame.value.executionId;
            break;
          case "output":
            this.take(frame.value);
            if (this.received - acknowledged >= ACK_EVERY) {
              acknowledged = this.received;
              requests.send({ case: "ack", value: { offset: acknowledged } });
            }
            break;
          case "truncated":
            throw new Error(`output below ${frame.value.offset} is gone`);
          case "inputAccepted":
            if (!inputDone) {
              sent = this.feed(requests, frame.value, sent);
              inputDone = sent === this.input.length;
            }
            break;
          case "inputClosed":
            // A process may leave input unread; that is its business.
            inputDone = true;
            break;
          case "exit":
            if (frame.value.outputBytes !== this.received) {
              throw new Error(`the log has ${frame.value.outputBytes} bytes, ${this.received} came`);
            }
            // The last frame: the stream ends by itself.
            this.exit = frame.value;
            break;
        }
      }
    } finally {
      requests.end();
    }
    if (!this.exit) {
      throw new ConnectError("the stream ended without an exit", Code.Unavailable);
    }
  }

  // Sends input as far as the window allows. Gives how much has been sent: on a
  // new stream that begins at what the agent has.
  private feed(requests: Requests, accepted: InputAccepted, before: number | undefined): number {
    let sent = before ?? Number(accepted.offset);
    const end = Math.min(Number(accepted.offset + accepted.windowBytes), this.input.length);
    while (sent < end) {
      const data = this.input.subarray(sent, Math.min(sent + INPUT_CHUNK, end));
      requests.send({ case: "input", value: { offset: BigInt(sent), data } });
      sent += data.length;
    }
    if (sent === this.input.length) {
      requests.send({ case: "closeInput", value: { offset: BigInt(sent) } });
    }
    return sent;
  }

  private take({ offset, stream, data }: OutputChunk): void {
    if (offset !== this.received) {
      throw new Error(`output goes on at ${offset}, not at ${this.received}`);
    }
    this.received += BigInt(data.length);
    (stream === OutputStream.STDERR ? this.stderr : this.stdout).update(data);
  }
}

// The client's side of a stream: frames to send, in order, until it is ended.
class Requests implements AsyncIterable<AttachCommandRequest> {
  private readonly waiting: AttachCommandRequest[] = [];
  private ended = false;
  private wake = () => {};

  send(frame: Frame): void {
    this.waiting.push(create(AttachCommandRequestSchema, frame && { frame }));
    this.wake();
  }

  end(): void {
    this.ended = true;
    this.wake();
  }

  async *[Symbol.asyncIterator]() {
    while (!this.ended) {
      const next = this.waiting.shift();
      if (next) {
        yield next;
      } else {
        await new Promise<void>((resolve) => {
          this.wake = resolve;
        });
      }
    }
  }
}

// Repeats a call while connections break. Pauses double, and are short again
// after a call that was answered at all.
async function retry<T>(signal: AbortSignal, call: () => Promise<T>, answered = () => false): Promise<T> {
  for (let wait = FIRST_PAUSE_MS; ; wait = Math.min(2 * wait, LONGEST_PAUSE_MS)) {
    try {
      return await call();
    } catch (error) {
      if (!isBroken(error)) {
        throw error;
      }
      if (answered()) {
        wait = FIRST_PAUSE_MS;
      }
      await pause(wait);
      if (signal.aborted) {
        throw error;
      }
    }
  }
}

// Tells a lost connection from an answer. Every error that Nullspace answers
// with has an ErrorInfo; what Connect makes of a connection that broke has none.
function isBroken(error: unknown): boolean {
  if (!(error instanceof ConnectError)) {
    return false;
  }
  const broken = [Code.Internal, Code.Unknown, Code.Canceled, Code.Aborted, Code.ResourceExhausted];
  return error.code === Code.Unavailable || (broken.includes(error.code) && !reason(error));
}

function reason(error: ConnectError): string | undefined {
  return error.findDetails(ErrorInfoSchema)[0]?.reason;
}

function explain(error: unknown): string {
  const known = error instanceof ConnectError && reason(error);
  if (known) {
    return `${known}: ${error.rawMessage}`;
  }
  return error instanceof Error ? error.message : String(error);
}

const line = process.argv[2];
if (line === undefined || process.argv.length !== 3) {
  console.error("usage: follow COMMAND <input");
  process.exit(2);
}
try {
  await run(line);
} catch (error) {
  console.error(`follow: ${explain(error)}`);
  process.exitCode = 1;
}
