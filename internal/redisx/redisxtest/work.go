package redisxtest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// Work is what one command made a server do. The server is held that long, and unlike a time this
// can be counted.
type Work struct {
	Command   string // its first words
	Calls     int    // commands that a script ran
	Arguments int    // of the command and of those that it ran
	Bytes     int    // of the same, as MONITOR prints them
}

// MaxWork is more than any command of the packages may do. 10,000 commands in a script take some
// 10 ms.
var MaxWork = Work{Calls: 10_000, Arguments: 60_000, Bytes: 10 << 20}

// CheckWork runs f and fails the test if a command of any client of the server does more than
// MaxWork. The server must belong to the test.
func CheckWork(t testing.TB, url, what string, f func()) {
	t.Helper()
	for _, w := range watchWork(t, url, f) {
		if w.Calls > MaxWork.Calls || w.Arguments > MaxWork.Arguments || w.Bytes > MaxWork.Bytes {
			t.Errorf("%s: one command did %+v, must do at most %d calls, %d arguments and %d bytes",
				what, w, MaxWork.Calls, MaxWork.Arguments, MaxWork.Bytes)
		}
	}
}

// watchWork runs f and returns, for each command that the server got meanwhile, what it did.
func watchWork(t testing.TB, url string, f func()) []Work {
	t.Helper()
	o := Options(t, url)
	o.DisableCache = true
	c, err := rueidis.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := net.Dial("tcp", o.InitAddress[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // nothing depends on it
	fmt.Fprintf(conn, "AUTH %s\r\nMONITOR\r\n", o.Password)
	r := bufio.NewReaderSize(conn, 1<<20)
	for range 2 {
		if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "+OK") {
			t.Fatalf("MONITOR: got %q, %v, want +OK", line, err)
		}
	}
	const end = "the end of the work"
	found := make(chan []Work, 1)
	go func() { found <- readWork(r, end) }()
	f()
	if err := c.Do(context.Background(), c.B().Echo().Message(end).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	select {
	case work := <-found:
		if len(work) == 0 {
			t.Fatal("MONITOR shows no command")
		}
		return work
	case <-time.After(time.Minute):
		t.Fatal("MONITOR does not show the last command")
		return nil
	}
}

// readWork reads the lines of MONITOR. Those of the commands of a script follow its own.
func readWork(r *bufio.Reader, end string) (all []Work) {
	for {
		line, err := r.ReadString('\n')
		if err != nil || strings.Contains(line, end) {
			return all
		}
		source, command, _ := strings.Cut(line, "] ")
		if !strings.HasSuffix(source, " lua") {
			all = append(all, Work{Command: command[:min(len(command), 60)]})
		} else if len(all) == 0 {
			continue // of a script that began before
		}
		w := &all[len(all)-1]
		if strings.HasSuffix(source, " lua") {
			w.Calls++
		}
		w.Arguments += strings.Count(command, `" "`) + 1
		w.Bytes += len(command)
	}
}
