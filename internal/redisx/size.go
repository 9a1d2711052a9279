package redisx

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

const (
	// safeSize is the smallest value that a server takes for a setting that bounds an argument, less
	// the head of a command.
	safeSize = 1<<20 - argumentHead
	// argumentHead is what a server reads in addition to the bytes of an argument.
	argumentHead = 64
)

// argumentSettings bound the size of one argument of a command. A server that reads a larger one
// closes the connection, mostly without an answer, and what else is under way on it is lost.
var argumentSettings = []string{"proto-max-bulk-len", "client-query-buffer-limit"}

// SizeError reports an argument that the server would not read.
type SizeError struct {
	Setting     string
	Limit, Size int
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("%d bytes are over the server's %s of %d: raise it, or send less", e.Size, e.Setting, e.Limit)
}

// ReplyLimit returns the hard bound of client-output-buffer-limit for normal clients, in bytes. A
// server that has more to send closes the connection. 0: it has none, or does not report it.
func (s *Server) ReplyLimit(ctx context.Context) (int64, error) {
	setting, err := s.Setting(ctx, "client-output-buffer-limit")
	f := strings.Fields(setting) // class, hard bound, soft bound, seconds, and so on
	for i := 0; i+1 < len(f); i += 4 {
		if f[i] == "normal" {
			n, _ := strconv.ParseInt(f[i+1], 10, 64)
			return n, err
		}
	}
	return 0, err
}

// CheckSize returns a *SizeError if the server would not read an argument of so many bytes. It asks
// the server only about one that some server might refuse, of a megabyte and more. Where the server
// does not report its settings, every size passes.
func (s *Server) CheckSize(ctx context.Context, size int) error {
	if size <= safeSize {
		return nil
	}
	node := s.node(ctx)
	for _, setting := range argumentSettings {
		var values map[string]string
		err := s.Retry(ctx, func() (err error) {
			values, err = node.Do(ctx, node.B().ConfigGet().Parameter(setting).Build()).AsStrMap()
			return err
		})
		if _, isReply := rueidis.IsRedisErr(err); isReply {
			return nil // no permission, or no such command
		}
		if err != nil {
			return err
		}
		if limit, err := strconv.Atoi(values[setting]); err == nil && limit > 0 && size+argumentHead > limit {
			return &SizeError{Setting: setting, Limit: limit, Size: size}
		}
	}
	return nil
}

// Counts of records and times in milliseconds are ints in many places, and would overflow where an
// int has 32 bits. There the compiler refuses the program, and names this constant.
const headraceNeedsA64BitPlatform = 1 << 62

var _ int = headraceNeedsA64BitPlatform
