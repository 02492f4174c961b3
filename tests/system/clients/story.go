// An operator's story with grpc-go: create a pool, grow it, apply a configuration that was previewed as a diff, watch,
// find who leaks and who is behind, take it off, clean up, delete.
//
//	go install tool && PROTOS=PREFIX/share/zerocp/proto go generate && go build
//	./story unix:/run/zerocp/admin.sock, or HOST:PORT AUTHORITY [CERTIFICATE KEY]
//
//go:generate bash -c "cd $PROTOS && protoc --go{,-grpc}_out=$PWD --go{,-grpc}_opt=module=zerocp/story --go{,-grpc}_opt=Mzerocp/v1/{resources,{admin,observer,session}_service}.proto=zerocp/story/v1 zerocp/v1/*.proto"
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"zerocp/story/v1"
)

const pool, channel, wait = "pools/story", "channels/story", v1.Channel_WHEN_FULL_WAIT

// reasonOf is what programs compare of a call that the daemon refused, never the text. Anything else ends the program.
func reasonOf[T any](_ T, err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	log.Fatalf("not refused by the daemon, but: %v", err)
	return ""
}

// must returns the answer of a call, or ends the program with its error.
func must[T any](answer T, err error) T {
	if err != nil {
		log.Fatalf("%s %s: %s", status.Code(err), reasonOf(answer, err), status.Convert(err).Message())
	}
	return answer
}

func expect(condition bool, what any) {
	if !condition {
		log.Fatalf("not as expected: %v", what)
	}
}

// connect: a socket without credentials, or TLS with one's certificate, whose name has a role.
func connect(target string, files ...string) *grpc.ClientConn {
	if len(files) == 0 {
		return must(grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials())))
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	expect(config.RootCAs.AppendCertsFromPEM(must(os.ReadFile(files[0]))), files[0])
	if len(files) == 3 {
		config.Certificates = []tls.Certificate{must(tls.LoadX509KeyPair(files[1], files[2]))}
	}
	return must(grpc.NewClient(target, grpc.WithTransportCredentials(credentials.NewTLS(config))))
}

// first returns the first answer of a stream that is as asked for.
func first[A any](stream grpc.ServerStreamingClient[A], condition func(*A) bool) (*A, error) {
	for {
		if answer, err := stream.Recv(); err != nil || condition(answer) {
			return answer, err
		}
	}
}

func find[T any](all []T, is func(T) bool) T { return all[slices.IndexFunc(all, is)] } // REQUIRES: it is there
func isPool(one *v1.Pool) bool               { return one.Name == pool }
func isChannel(one *v1.Channel) bool         { return one.Name == channel }
func isStory(one *v1.ChannelStats) bool      { return one.Channel == channel }
func isWriting(one *v1.HolderSummary) bool   { return one.Phase == v1.HeldChunk_PHASE_WRITING }

func story(ctx context.Context, admin v1.AdminServiceClient, observer v1.ObserverServiceClient) {
	expect(reasonOf(observer.GetPool(ctx, &v1.GetPoolRequest{Name: pool})) == "POOL_NOT_FOUND", "there is no pool yet")

	// Create, as a preview and really, and grow.
	create := &v1.CreatePoolRequest{PoolId: "story", Pool: &v1.Pool{ChunkSizeBytes: 4096, ChunkCount: 16}, ValidateOnly: true}
	expect(!must(admin.CreatePool(ctx, create)).Created, "a preview creates nothing")
	create.ValidateOnly = false
	expect(must(admin.CreatePool(ctx, create)).Created, "the pool is created")
	must(admin.UpdatePool(ctx, &v1.UpdatePoolRequest{Pool: &v1.Pool{Name: pool, ChunkCount: 32}}))

	// The configuration as a whole: what is in force, edited; first what would change, then the change.
	config := must(observer.GetConfig(ctx, &v1.GetConfigRequest{})).Config
	apply := &v1.ApplyConfigRequest{Config: proto.CloneOf(config), ValidateOnly: true}
	find(apply.Config.Pools, isPool).ChunkCount = 48
	apply.Config.Channels = append(apply.Config.Channels, &v1.Channel{Name: channel, Pool: pool, WhenFull: wait, QueueCapacity: 4})
	preview := must(admin.ApplyConfig(ctx, apply)).Changes
	fmt.Println("would change:", preview)
	expect(len(preview) == 2 && preview[0].Path == channel && preview[1].OldValue == "32" && preview[1].NewValue == "48", preview)
	expect(proto.Equal(must(observer.GetConfig(ctx, &v1.GetConfigRequest{})).Config, config), "a preview changes nothing")
	apply.ValidateOnly = false
	done := must(admin.ApplyConfig(ctx, apply)).Changes
	expect(slices.EqualFunc(done, preview, func(a, b *v1.ConfigChange) bool { return proto.Equal(a, b) }), done)
	config = must(observer.GetConfig(ctx, &v1.GetConfigRequest{})).Config
	expect(find(config.Pools, isPool).ChunkCount == 48 && find(config.Channels, isChannel).QueueCapacity == 4, config)
	expect(reasonOf(admin.ApplyConfig(ctx, apply)) == "ETAG_MISMATCH", "it was made of one that is in force no more")

	// Watch until somebody is behind; who is it, and what does it hold?
	stall := must(first(must(observer.WatchEvents(ctx, &v1.WatchEventsRequest{})), func(event *v1.WatchEventsResponse) bool {
		return event.Kind == v1.WatchEventsResponse_KIND_SUBSCRIBER_STALLED && strings.HasPrefix(event.Resource, channel+"/")
	}))
	numbers := must(observer.WatchStats(ctx, &v1.WatchStatsRequest{}))
	slow := find(must(numbers.Recv()).Stats.Channels, isStory).Subscribers[0] // the longest queue
	expect(slow.Subscriber == stall.Resource && slow.QueuedCount == 4 && slow.ClientName == "leaky", stall)
	held := must(observer.ListHeldChunks(ctx, &v1.ListHeldChunksRequest{Pool: pool, Holder: slow.Session})).Holders
	fmt.Println("is behind:", slow, "and keeps:", held)
	expect(find(held, isWriting).ChunkCount == 3, "who leaks")

	// Take it off; the publisher goes on and ends. Then end the one that leaks.
	must(admin.DetachSubscriber(ctx, &v1.DetachSubscriberRequest{Name: slow.Subscriber}))
	must(first(numbers, func(update *v1.WatchStatsResponse) bool {
		one := find(update.Stats.Channels, isStory)
		return one.PublishedCount == 64 && one.PublisherCount == 0
	}))
	end := &v1.TerminateSessionRequest{Name: slow.Session, Kill: true}
	expect(must(admin.TerminateSession(ctx, end)).ReleasedChunkCount >= 3, "its chunks are free")

	// Clean up and delete.
	dead := []v1.CleanupRequest_Kind{v1.CleanupRequest_KIND_DEAD_SESSION}
	expect(must(admin.Cleanup(ctx, &v1.CleanupRequest{Kinds: dead})).RemovedCount == 0, "nobody is left behind")
	expect(reasonOf(admin.DeletePool(ctx, &v1.DeletePoolRequest{Name: pool})) == "POOL_IN_USE", "a channel uses the pool")
	must(admin.DeleteChannel(ctx, &v1.DeleteChannelRequest{Name: channel}))
	must(admin.DeletePool(ctx, &v1.DeletePoolRequest{Name: pool, Drain: true}))
	numbers = must(observer.WatchStats(ctx, &v1.WatchStatsRequest{Pools: []string{pool}})) // ends when it is gone
	expect(reasonOf(first(numbers, func(*v1.WatchStatsResponse) bool { return false })) == "POOL_NOT_FOUND", "the pool is gone")
	expect(must(admin.Audit(ctx, &v1.AuditRequest{})).ViolationCount == 0, "no invariant is broken")
}

func main() {
	log.SetFlags(0)
	connection := connect(os.Args[1], os.Args[2:]...)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // of every call and stream
	defer cancel()
	story(ctx, v1.NewAdminServiceClient(connection), v1.NewObserverServiceClient(connection))
	fmt.Println("story.go: told with grpc-go", grpc.Version)
}
