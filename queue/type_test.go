package queue_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/redisx/redisxtest"
	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/queue"
)

// Each key of a queue is overwritten with another type, in turn. A call that fails because of it
// names the key, and has changed nothing.
func TestWrongTypeNamesTheKey(t *testing.T) {
	t.Parallel()
	c, ctx := servertest.Redis(t), t.Context()
	for _, test := range []struct {
		key   string
		least int // calls that fail
	}{
		{"ready", 15}, {"stat", 15}, {"leases", 9}, {"redo", 9}, {"handed", 9}, {"open", 9}, {"delayed", 9}, {"dead", 9}, {"broken", 9},
		{"pushing", 1}, {"positions", 2}, {"leased meta", 2}, {"leased list", 2},
	} {
		d := newDamaged(t, c)
		q := d.q
		must(t, q.PushFrom(ctx, "source", "", "1", records(20, 22)...))
		bounded := openAs(t, c, q.Name(), queue.Config{Push: queue.PushConfig{MaxDepth: 1000}})
		key := d.key(test.key)
		switch test.key {
		case "ready":
			key = "{" + q.Name() + "}:ready"
		case "leased meta":
			key = d.key("m:" + d.leased.ID)
		case "leased list":
			key = d.key("b:" + d.leased.ID)
		}
		must(t, c.Do(ctx, c.B().Set().Key(key).Value("x").Build()).Error())
		failed := 0
		check := func(what string, call func() error) {
			t.Helper()
			before := redisxtest.Dump(t, c, q.Name())
			err := call()
			if !errors.Is(err, queue.ErrWrongType) {
				return
			}
			failed++
			var wrong *queue.WrongTypeError
			if !errors.As(err, &wrong) || wrong.Key != key || wrong.Type != "string" {
				t.Errorf("%s: %s: got %v, want a WrongTypeError with the key", key, what, err)
			}
			if want := fmt.Sprintf("%s is a string, must be a ", key); strings.Count(err.Error(), want) != 1 || strings.Contains(err.Error(), ": queue: ") {
				t.Errorf("%s: %s: got %q, want %q in it once, and the package at its beginning only", key, what, err, want)
			}
			if after := redisxtest.Dump(t, c, q.Name()); after != before {
				t.Errorf("%s: %s: got %v, and keys that have changed, want none", key, what, err)
			}
		}
		check("Stats", func() error { _, err := q.Stats(ctx); return err })
		check("Audit", func() error { _, err := q.Audit(ctx); return err })
		check("New", func() error {
			_, err := queue.New(ctx, c, q.Name(), queue.Config{Logger: quiet})
			return err
		})
		check("Position", func() error { _, err := q.Position(ctx, "source"); return err })
		check("Get", func() error { _, err := q.Get(ctx, d.leased.ID); return err })
		check("Annotation", func() error { _, err := q.Annotation(ctx, d.leased.ID, "x"); return err })
		check("Batches", func() error { _, err := q.Batches(ctx, d.leased.ID, d.released.ID, d.handed.ID); return err })
		check("InFlight", func() error { _, _, err := q.InFlight(ctx, time.Now(), 10); return err })
		check("Scan", func() error {
			_, err := q.Scan(ctx, queue.ScanOptions{}, func([]queue.ScannedRecord) error { return nil })
			return err
		})
		check("HandedOff", func() error { _, err := q.HandedOff(ctx); return err })
		check("DeadLetters", func() error { _, _, err := q.DeadLetters(ctx, "", 10); return err })
		check("DeadLetter", func() error { _, err := q.DeadLetter(ctx, d.dead); return err })
		check("Pause", func() error { return q.Pause(ctx) })
		check("Resume", func() error { return q.Resume(ctx) })
		check("Push", func() error { return q.Push(ctx, records(30, 31)...) })
		check("Push of a bounded queue", func() error { return bounded.Push(ctx, records(31, 32)...) })
		check("large Push of a bounded queue", func() error { return bounded.Push(ctx, records(100, 200)...) })
		check("PushAt", func() error { return q.PushAt(ctx, time.Now().Add(time.Hour), records(32, 33)...) })
		check("PushFrom", func() error { return q.PushFrom(ctx, "source", "1", "2", records(33, 34)...) })
		check("Extend", func() error { return q.Extend(ctx, d.leased, time.Hour) })
		check("ExtendWaiting", func() error { return q.ExtendWaiting(ctx, d.leased, time.Hour) })
		check("TryLease", func() error { _, err := q.TryLease(ctx, queue.LeaseOptions{}); return err })
		check("Release", func() error { return q.Release(ctx, d.leased, queue.ReleaseOptions{Delay: time.Hour}) })
		check("Handoff", func() error { return q.Handoff(ctx, d.leased) })
		check("RequeueAll", func() error { _, err := q.RequeueAll(ctx); return err })
		check("Requeue", func() error { _, err := q.Requeue(ctx, d.dead); return err })
		check("Discard", func() error { _, err := q.Discard(ctx, d.dead); return err })
		check("Settle", func() error { return q.Settle(ctx, d.released, queue.Resolution{}) })
		check("Ack", func() error { _, err := q.Ack(ctx, d.released.ID); return err })
		check("Reconcile", func() error {
			_, err := q.Reconcile(ctx, func(_ context.Context, ids []string) ([]queue.BatchFate, error) {
				return make([]queue.BatchFate, len(ids)), nil
			}, nil)
			return err
		})
		if failed < test.least {
			t.Errorf("%s: %d calls failed because of its type, want %d or more", key, failed, test.least)
		}
	}
}

// An undo on a key of another type names the key, whether it is one of the last ones or goes before
// them.
func TestWrongTypeOfAnUndo(t *testing.T) {
	t.Parallel()
	c, ctx := servertest.Redis(t), t.Context()
	q := open(t, c, queue.Config{})
	must(t, q.Push(ctx, records(0, 1)...))
	b := lease(t, q, queue.LeaseOptions{})
	key := "{" + q.Name() + "}:undone"
	must(t, c.Do(ctx, c.B().Sadd().Key(key).Member("m").Build()).Error())
	undo := []queue.Undo{{Key: "{" + q.Name() + "}:none", Old: "o", New: "n"}, {Key: key, Old: "o", New: "n"}}
	for range 1000 {
		undo = append(undo, undo[0])
	}
	for _, undo := range [][]queue.Undo{undo[:2], undo} {
		_, ackErr := q.AckWith(ctx, queue.Ack{ID: b.ID, Undo: undo})
		for _, err := range []error{ackErr, q.Settle(ctx, b, queue.Resolution{Undo: undo})} {
			if !errors.Is(err, queue.ErrWrongType) || !strings.Contains(err.Error(), key+" is a set, must be a string") {
				t.Errorf("%d undos: got %v, want ErrWrongType with the key", len(undo), err)
			}
		}
	}
}

// A script that writes compares the layout of the data first.
func TestScriptsCompareTheLayout(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.lua")
	must(t, err)
	for _, name := range files {
		text, err := os.ReadFile(name)
		must(t, err)
		if !regexp.MustCompile(`begin\(\)|checkLayout\(|LAYOUT`).Match(text) && name != "audit.lua" { // Audit does
			t.Errorf("%s does not compare the layout of the data", name)
		}
	}
}
