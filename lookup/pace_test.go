package lookup_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/lookup"
)

// Entries that are more than the network takes before the client gives up are stored, all of them
// after a few attempts at most.
func TestALargePutOverASlowNetwork(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	net := &redisxtest.Narrow{Client: servertest.Redis(t), Most: 1500 << 10}
	remote, err := lookup.NewRemote(ctx, net, servertest.Prefix(t), lookup.RemoteConfig[string, string]{})
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]string{}
	var keys []string
	for i := range 128 {
		keys = append(keys, fmt.Sprint(i))
		entries[keys[i]] = strings.Repeat("v", 64<<10)
	}
	for tries := 1; ; tries++ {
		err := remote.Put(ctx, entries)
		if err == nil {
			break
		}
		if tries == 3 {
			t.Fatalf("attempt %d: %v", tries, err)
		}
	}
	found, err := remote.GetMany(ctx, keys)
	if err != nil || len(found.Missing) > 0 {
		t.Errorf("got %d missing entries and %v, want all of them", len(found.Missing), err)
	}
}

// Entries that are more than the network brings before the client gives up can be read.
func TestALargeReadOverASlowNetwork(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := servertest.Redis(t)
	name := servertest.Prefix(t)
	entries := map[string]string{}
	var keys []string
	for i := range 512 {
		keys = append(keys, fmt.Sprint(i))
		entries[keys[i]] = strings.Repeat("v", 16<<10)
	}
	writer, err := lookup.NewRemote(ctx, c, name, lookup.RemoteConfig[string, string]{})
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Put(ctx, entries); err != nil {
		t.Fatal(err)
	}
	reads := &redisxtest.Reads{Client: c}
	reader, err := lookup.NewRemote(ctx, reads, name, lookup.RemoteConfig[string, string]{})
	if err != nil {
		t.Fatal(err)
	}
	found, err := reader.GetMany(ctx, keys)
	if err != nil || len(found.Missing) > 0 {
		t.Fatalf("got %d missing entries and %v, want all of them", len(found.Missing), err)
	}
	if first := reads.Trips[0]; first > 2<<20 || len(reads.Trips) > 8 {
		t.Errorf("got round trips of %d bytes, want a small one first and few in all", reads.Trips)
	}
}
