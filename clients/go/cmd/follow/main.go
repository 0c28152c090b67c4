// Follow runs a shell command in a new sandbox, feeds it what comes on standard
// input, and follows its output to the end. Connections may break meanwhile: no
// byte is lost and none comes twice.
//
//	NULLSPACE_API_URL=… NULLSPACE_API_KEY=… go run ./cmd/follow COMMAND <input
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/url"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	nullspacev1 "nullspace.dev/gen/go/nullspace/v1"
)

const (
	// All of it, however often connections break.
	totalTime  = 5 * time.Minute
	createTime = time.Minute
	// Should this program die, its sandbox ends by itself.
	sandboxLifetime = 10 * time.Minute
	destroyTime     = 30 * time.Second
	firstPause      = 20 * time.Millisecond
	longestPause    = time.Second
	inputChunk      = 64 << 10
	// The contract asks a holder for an acknowledgement every 256 KiB.
	ackEvery = 128 << 10
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: follow COMMAND <input")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "follow:", explain(err))
		os.Exit(1)
	}
}

func run(line string) (err error) {
	connection, err := connect(os.Getenv("NULLSPACE_API_URL"))
	if err != nil {
		return err
	}
	defer connection.Close()
	key := os.Getenv("NULLSPACE_API_KEY")
	if key == "" {
		return errors.New("NULLSPACE_API_KEY is not set")
	}
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	background := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+key)
	ctx, cancel := context.WithTimeout(background, totalTime)
	defer cancel()

	sandboxes := nullspacev1.NewSandboxServiceClient(connection)
	sandbox, err := create(ctx, sandboxes)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "sandbox", sandbox.Id)
	defer func() {
		ctx, cancel := context.WithTimeout(background, destroyTime)
		defer cancel()
		err = errors.Join(err, destroy(ctx, sandboxes, sandbox.Id))
	}()

	f := &follower{
		commands:  nullspacev1.NewCommandServiceClient(connection),
		sandboxID: sandbox.Id,
		commandID: "cmd_" + random(),
		clientID:  "follow_" + random(),
		line:      line,
		input:     input,
		stdout:    sha256.New(),
		stderr:    sha256.New(),
	}
	if err := retry(ctx, func() (bool, error) { return f.attach(ctx) }); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(f.summary())
}

func connect(address string) (*grpc.ClientConn, error) {
	parsed, err := url.Parse(address)
	if err != nil || parsed.Host == "" || (parsed.Scheme != "http" && parsed.Scheme != "https") {
		return nil, fmt.Errorf("NULLSPACE_API_URL is %q, not http://HOST:PORT or https://HOST:PORT", address)
	}
	transport := insecure.NewCredentials()
	if parsed.Scheme == "https" {
		transport = credentials.NewTLS(nil)
	}
	return grpc.NewClient(parsed.Host,
		grpc.WithTransportCredentials(transport),
		// A connection that has died without a word is noticed.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstPause, Multiplier: 2, Jitter: 0.2, MaxDelay: longestPause},
			MinConnectTimeout: 5 * time.Second,
		}),
	)
}

// The key makes it safe to repeat: the first call that arrives makes the
// sandbox, and the others get the same answer.
func create(ctx context.Context, sandboxes nullspacev1.SandboxServiceClient) (sandbox *nullspacev1.Sandbox, err error) {
	request := &nullspacev1.CreateSandboxRequest{
		IdempotencyKey: random(),
		Spec: &nullspacev1.SandboxSpec{
			Lifetime: &nullspacev1.LifetimePolicy{Timeout: durationpb.New(sandboxLifetime)},
		},
	}
	ctx, cancel := context.WithTimeout(ctx, createTime)
	defer cancel()
	err = retry(ctx, func() (bool, error) {
		response, err := sandboxes.CreateSandbox(ctx, request)
		sandbox = response.GetSandbox()
		return err == nil, err
	})
	return sandbox, err
}

func destroy(ctx context.Context, sandboxes nullspacev1.SandboxServiceClient, id string) error {
	return retry(ctx, func() (bool, error) {
		_, err := sandboxes.DestroySandbox(ctx, &nullspacev1.DestroySandboxRequest{SandboxId: id})
		return err == nil, err
	})
}

// A follower is what outlives a stream: where output and input stand.
type follower struct {
	commands                       nullspacev1.CommandServiceClient
	sandboxID, commandID, clientID string
	line                           string
	input                          []byte

	executionID    string
	received       int64
	stdout, stderr hash.Hash
	attaches       int
	exit           *nullspacev1.Exit
}

// Attach follows the command over one stream. All that it sends answers
// something that came, and input stays within the window that the agent gives,
// so that sending cannot block for long and one goroutine does both.
func (f *follower) attach(ctx context.Context) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := f.commands.AttachCommand(ctx)
	if err != nil {
		return false, err
	}
	open := &nullspacev1.AttachOpen{
		SandboxId: f.sandboxID,
		CommandId: f.commandID,
		// The same each time: it starts the command if no attach before did.
		Start: &nullspacev1.CommandSpec{
			Program:   &nullspacev1.CommandSpec_Shell{Shell: f.line},
			OpenStdin: true,
			Overflow:  nullspacev1.Overflow_OVERFLOW_BLOCK,
		},
		Hold:     true,
		ClientId: f.clientID,
	}
	if f.executionID != "" {
		open.Position = &nullspacev1.LogPosition{ExecutionId: f.executionID, Offset: f.received}
	}
	// An error of Send is io.EOF; what it was is told by Recv.
	send := func(request *nullspacev1.AttachCommandRequest) { _ = stream.Send(request) }
	send(&nullspacev1.AttachCommandRequest{Frame: &nullspacev1.AttachCommandRequest_Open{Open: open}})
	f.attaches++

	var sent int64 = -1 // Unknown until the first InputAccepted.
	inputDone := false
	acknowledged := f.received
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			return answered, status.Error(codes.Unavailable, "the stream ended without an exit")
		}
		if err != nil {
			return answered, err
		}
		answered = true
		switch frame := response.Frame.(type) {
		case *nullspacev1.AttachCommandResponse_Started:
			f.executionID = frame.Started.ExecutionId
		case *nullspacev1.AttachCommandResponse_Output:
			if err := f.take(frame.Output); err != nil {
				return answered, err
			}
			if f.received-acknowledged >= ackEvery {
				acknowledged = f.received
				send(&nullspacev1.AttachCommandRequest{Frame: &nullspacev1.AttachCommandRequest_Ack{
					Ack: &nullspacev1.OutputAck{Offset: acknowledged},
				}})
			}
		case *nullspacev1.AttachCommandResponse_Truncated:
			return answered, fmt.Errorf("output below %d is gone", frame.Truncated.Offset)
		case *nullspacev1.AttachCommandResponse_InputAccepted:
			if inputDone {
				continue
			}
			accepted := frame.InputAccepted
			if sent < 0 {
				sent = accepted.Offset
			}
			end := min(accepted.Offset+accepted.WindowBytes, int64(len(f.input)))
			for sent < end {
				data := f.input[sent:min(sent+inputChunk, end)]
				send(&nullspacev1.AttachCommandRequest{Frame: &nullspacev1.AttachCommandRequest_Input{
					Input: &nullspacev1.InputChunk{Offset: sent, Data: data},
				}})
				sent += int64(len(data))
			}
			if sent == int64(len(f.input)) {
				inputDone = true
				send(&nullspacev1.AttachCommandRequest{Frame: &nullspacev1.AttachCommandRequest_CloseInput{
					CloseInput: &nullspacev1.CloseInput{Offset: sent},
				}})
			}
		case *nullspacev1.AttachCommandResponse_InputClosed:
			// A process may leave input unread; that is its business.
			inputDone = true
		case *nullspacev1.AttachCommandResponse_Exit:
			if frame.Exit.OutputBytes != f.received {
				return answered, fmt.Errorf("the log has %d bytes, %d came", frame.Exit.OutputBytes, f.received)
			}
			f.exit = frame.Exit
			return true, nil
		}
	}
}

func (f *follower) take(chunk *nullspacev1.OutputChunk) error {
	if chunk.Offset != f.received {
		return fmt.Errorf("output goes on at %d, not at %d", chunk.Offset, f.received)
	}
	f.received += int64(len(chunk.Data))
	into := f.stdout
	if chunk.Stream == nullspacev1.OutputStream_OUTPUT_STREAM_STDERR {
		into = f.stderr
	}
	_, err := io.Copy(into, bytes.NewReader(chunk.Data))
	return err
}

type summary struct {
	Language     string `json:"language"`
	OutputBytes  int64  `json:"output_bytes"`
	SHA256Stdout string `json:"sha256_stdout"`
	SHA256Stderr string `json:"sha256_stderr"`
	Attaches     int    `json:"attaches"`
	ExitCode     int32  `json:"exit_code"`
}

func (f *follower) summary() summary {
	code := f.exit.GetCode()
	if signal := f.exit.GetSignal(); signal != 0 {
		code = 128 + signal // As shells say it.
	}
	return summary{
		Language:     "go",
		OutputBytes:  f.received,
		SHA256Stdout: hex.EncodeToString(f.stdout.Sum(nil)),
		SHA256Stderr: hex.EncodeToString(f.stderr.Sum(nil)),
		Attaches:     f.attaches,
		ExitCode:     code,
	}
}

// Retry repeats a call while connections break. Pauses double, and are short
// again after a call that was answered at all.
func retry(ctx context.Context, call func() (answered bool, err error)) error {
	pause := firstPause
	deadline, _ := ctx.Deadline()
	for {
		answered, err := call()
		if err == nil || !isBroken(err) {
			return err
		}
		if answered {
			pause = firstPause
		}
		if time.Until(deadline) < pause {
			return fmt.Errorf("gave up: %w", err)
		}
		time.Sleep(pause)
		pause = min(2*pause, longestPause)
	}
}

// IsBroken tells a lost connection from an answer. Every error that Nullspace
// answers with has an ErrorInfo; what gRPC makes of a connection that broke has
// none.
func isBroken(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable:
		return true
	case codes.Internal, codes.Unknown, codes.Canceled:
		_, isStatus := status.FromError(err)
		return isStatus && reason(err) == ""
	}
	return false
}

func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}

func explain(err error) string {
	if reason := reason(err); reason != "" {
		return reason + ": " + status.Convert(err).Message()
	}
	return err.Error()
}

func random() string {
	return hex.EncodeToString([]byte(rand.Text()))
}
