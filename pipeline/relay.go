package pipeline

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/headrace/headrace/internal/redisx"
	"github.com/headrace/headrace/queue"
)

// RelayQueue is the part of a queue that a [Relay] pushes to. *[queue.Queue] implements it.
// *[queue.Shards] does not, because no step spans two shards: push the rows with Shards.Push and
// store the position afterwards, so that the windows drop what a restart pushes again.
type RelayQueue interface {
	Name() string
	Position(ctx context.Context, source string) (string, error)
	PushFrom(ctx context.Context, source, from, to string, payloads ...[]byte) error
}

// Querier reads rows. *pgxpool.Pool, *pgx.Conn and pgx.Tx implement it. The first of args is a
// pgx.QueryExecMode.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// RelayConfig configures a [Relay].
type RelayConfig struct {
	// DB and SQL read a page. The query takes the position of the last record ($1, a text) and the
	// number of records ($2), and returns the position and the payload of each, as text or bytea, in
	// ascending order of the position:
	//
	//	SELECT o.id::text, row_to_json(o)::text FROM orders o
	//	WHERE o.id > $1::text::bigint ORDER BY o.id LIMIT $2
	//
	// ORDER BY id would be wrong here: it means the output column id::text, and "10" sorts before "9".
	// The query would then pass over records. A relay notices that in most pages, also in small ones,
	// pushes nothing of the page and returns [ErrConfig]. A position must be unique, because a page
	// may end between two records, or the query must end with FETCH FIRST $2 ROWS WITH TIES.
	//
	// A key that is assigned before the commit, such as a sequence, may become visible after a higher
	// one, and would be passed over. Where several transactions write at once, keep the transaction's
	// id in the row and leave out what may still be in progress:
	//
	//	ALTER TABLE orders ADD tx xid8 NOT NULL DEFAULT pg_current_xact_id()
	//	SELECT o.tx || '/' || o.id, … WHERE o.tx < pg_snapshot_xmin(pg_current_snapshot())
	//	  AND (o.tx, o.id) > (split_part($1, '/', 1)::xid8, split_part($1, '/', 2)::bigint)
	//	ORDER BY o.tx, o.id LIMIT $2
	//
	// An index on (tx, id) keeps a page cheap. A transaction that stays open anywhere on the server
	// holds back what is newer than it. A default is for inserts: a row that is updated, also by
	// staging.ConflictReplace, keeps its tx and is passed over. To copy updates too, set tx in a
	// BEFORE UPDATE trigger.
	//
	// The position is in Redis. After Postgres was restored to an older state, or as a dump on a
	// server with transaction ids of its own, new rows may sort before the position and would be
	// passed over. Before programs start there, set tx to 1 in the rows up to the position and to 2 in
	// the others. Then relay them under a new name, with Start "1/9223372036854775807". Where only a
	// key orders the rows, and the greatest key in the table is less than the position, that key is
	// the Start under the new name.
	DB  Querier
	SQL string
	// Start is the position before the first record, such as "0" or "0/0".
	Start string
	// Records is how many records one page has. Default [DefaultRelayRecords].
	Records int
	// PollInterval is how often Run looks for new records. Default [DefaultPollInterval].
	PollInterval time.Duration
	// Signals wake Run when rows are promoted. Nil: it only polls.
	Signals *Signals
	// Logger receives errors that Run retries. Nil: slog.Default().
	Logger *slog.Logger
}

// DefaultRelayRecords is the default of RelayConfig.Records.
const DefaultRelayRecords = 1000

// Relay copies the records of a Postgres query into a queue, each exactly once. The position of the
// last one is kept in Redis, and moves in the step that pushes the records. So a Relay that dies,
// or loses a reply, continues without duplicating or losing a record, as far as Redis keeps what it
// has acknowledged. Two at once are harmless: one of them finds the position moved. A Relay is safe
// for concurrent use.
//
// With a query on the table of a pipeline it links two pipelines: queue, table, next queue.
type Relay struct {
	queue  RelayQueue
	source string
	cfg    RelayConfig
	failed *outage
	pace   redisx.Pace
}

// NewRelay returns a relay of that name. It performs no I/O. A name belongs to one query: under
// another name, the query starts anew.
func NewRelay(q RelayQueue, name string, cfg RelayConfig) (*Relay, error) {
	switch {
	case redisx.IsNil(q):
		return nil, fmt.Errorf("%w: the queue of NewRelay is nil, must be a *queue.Queue", ErrConfig)
	case q.Name() == "":
		return nil, fmt.Errorf("%w: the queue of NewRelay has no name, must come from queue.New", ErrConfig)
	case name == "":
		return nil, fmt.Errorf("%w: the name of NewRelay is empty", ErrConfig)
	case redisx.IsNil(cfg.DB):
		return nil, fmt.Errorf("%w: RelayConfig.DB is nil, must be a pool or a connection", ErrConfig)
	case cfg.SQL == "":
		return nil, fmt.Errorf("%w: RelayConfig.SQL is empty, must be a query", ErrConfig)
	}
	cfg.Records = cmp.Or(cfg.Records, DefaultRelayRecords)
	cfg.PollInterval = cmp.Or(cfg.PollInterval, DefaultPollInterval)
	_, cfg.Logger = sinks(nil, cfg.Logger)
	if err := (intField{"RelayConfig.Records", cfg.Records, 1, queue.MaxMove}).validate(); err != nil {
		return nil, err
	}
	if err := (durationField{"RelayConfig.PollInterval", cfg.PollInterval, time.Millisecond, maxDuration}).validate(); err != nil {
		return nil, err
	}
	return &Relay{queue: q, source: name, cfg: cfg, failed: newOutage(cfg.Logger, "relaying", "queue", q.Name(), "relay", name)}, nil
}

// Step copies one page and returns the number of its records, 0 when there are none. Of a page with
// many bytes it copies as much as the network takes at once. After an error the same page is read
// again, unless it was pushed. A page that exceeds the room of a bounded queue is [queue.ErrFull];
// Run waits for room.
func (r *Relay) Step(ctx context.Context) (int, error) {
	n, _, err := r.step(ctx)
	return n, err
}

// step does what Step does, and reports whether there may be more records.
func (r *Relay) step(ctx context.Context) (n int, more bool, err error) {
	at, err := r.queue.Position(ctx, r.source)
	if err != nil {
		return 0, false, fmt.Errorf("pipeline: relay %s: could not read the position: %w", r.source, err)
	}
	start := cmp.Or(at, r.cfg.Start)
	positions, payloads, err := r.page(ctx, start)
	if err != nil {
		return 0, false, fmt.Errorf("pipeline: relay %s: could not read the records after %q: %w", r.source, start, err)
	}
	if len(payloads) == 0 {
		return 0, false, nil
	}
	// Records of one position go together: the next page begins after the last one.
	n, bytes := 1, len(payloads[0])
	for limit := r.pace.Limit(); n < len(payloads) && (bytes+len(payloads[n]) <= limit || positions[n] == positions[n-1]); n++ {
		bytes += len(payloads[n])
	}
	begin := time.Now()
	err = r.queue.PushFrom(ctx, r.source, at, positions[n-1], payloads[:n]...)
	if err != nil {
		if isTransient(err) && !redisx.NotSent(err) && ctx.Err() == nil {
			r.pace.Learn(bytes, time.Since(begin), true)
		}
		return 0, false, fmt.Errorf("pipeline: relay %s: could not push %d records: %w", r.source, n, err)
	}
	r.pace.Learn(bytes, time.Since(begin), false)
	return n, n < len(payloads) || n >= r.cfg.Records, nil
}

// page reads the records after a position, and checks their order.
func (r *Relay) page(ctx context.Context, at string) (positions []string, payloads [][]byte, err error) {
	positions, payloads, err = r.read(ctx, at, r.cfg.Records)
	if err != nil || len(payloads) == 0 {
		return nil, nil, err
	}
	if positions[0] == at {
		return nil, nil, fmt.Errorf("%w: RelayConfig.SQL returns the record at $1, must return only those after it", ErrConfig)
	}
	longer := positions
	if len(positions) < DefaultRelayRecords && len(positions) >= r.cfg.Records && numberGrows(at, positions[len(positions)-1]) {
		if longer, _, err = r.read(ctx, at, DefaultRelayRecords); err != nil {
			return nil, nil, err
		}
	}
	return positions, payloads, r.ordered(ctx, longer)
}

// numberGrows reports whether the first number that differs in two positions has another length in
// each. Among numbers of one length the order of text is right. So a page that is too small to show
// a wrong order needs a longer look only there, which is rare. Positions with letters are text and
// may be in any order.
func numberGrows(at, to string) bool {
	if strings.ContainsFunc(at+to, unicode.IsLetter) {
		return false
	}
	digits := func(c rune) bool { return c < '0' || c > '9' }
	a, b := strings.FieldsFunc(at, digits), strings.FieldsFunc(to, digits)
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return len(a[i]) != len(b[i])
		}
	}
	return false
}

// read runs the query. It prepares no statement: behind a pooler that does not follow those, the
// server's connection would not have it.
func (r *Relay) read(ctx context.Context, at string, records int) (positions []string, payloads [][]byte, err error) {
	rows, err := r.cfg.DB.Query(ctx, r.cfg.SQL, pgx.QueryExecModeExec, at, records)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var position string
		var payload []byte
		var scan any = &payload
		if escaped, ok := escapedBytea(rows); ok {
			payload, scan = escaped, nil
		}
		if err := rows.Scan(&position, scan); err != nil {
			return nil, nil, err
		}
		if payload == nil {
			return nil, nil, fmt.Errorf("the payload at %q is NULL", position)
		}
		positions, payloads = append(positions, position), append(payloads, payload)
	}
	return positions, payloads, rows.Err()
}

// escapedBytea returns the payload of a row if it is a bytea as bytea_output = escape prints it,
// which pgx does not read. In that form a backslash is doubled, and other bytes are octal.
func escapedBytea(rows pgx.Rows) (payload []byte, ok bool) {
	fields, raw := rows.FieldDescriptions(), rows.RawValues()
	if len(raw) < 2 || raw[1] == nil || fields[1].DataTypeOID != pgtype.ByteaOID || fields[1].Format != pgx.TextFormatCode ||
		bytes.HasPrefix(raw[1], []byte(`\x`)) {
		return nil, false
	}
	payload = []byte{}
	for text := raw[1]; len(text) > 0; {
		switch {
		case text[0] != '\\':
			payload, text = append(payload, text[0]), text[1:]
		case len(text) >= 4 && text[1] != '\\':
			payload, text = append(payload, (text[1]-'0')<<6|(text[2]-'0')<<3|(text[3]-'0')), text[4:]
		default:
			payload, text = append(payload, '\\'), text[min(2, len(text)):]
		}
	}
	return payload, true
}

// ordered returns an error if the query's ORDER BY contradicts its condition on $1. Such a page is
// full while records before its last position are missing from it, and no later page has them.
//
// Only the query can compare its positions. So where one is less than the position before it, read
// as numbers and text, the query is asked which record follows it. That must not be one of those
// that the page has before it. Text keys may sort like that and be in order: then this costs a
// query for one record.
func (r *Relay) ordered(ctx context.Context, positions []string) error {
	for i := 1; i < len(positions); i++ {
		if comparePositions(positions[i-1], positions[i]) <= 0 {
			continue
		}
		after, _, err := r.read(ctx, positions[i], 1)
		if err != nil || len(after) == 0 {
			return err
		}
		if slices.Contains(positions[:i+1], after[0]) {
			return fmt.Errorf("%w: RelayConfig.SQL returns the position %[2]q before %[3]q, and again after $1 = %[3]q: must be in ascending order "+
				"(after SELECT id::text, ORDER BY id sorts by that text; write ORDER BY o.id)", ErrConfig, after[0], positions[i])
		}
		return nil
	}
	return nil
}

// comparePositions compares two positions byte by byte, and the numbers in them by their value.
func comparePositions(a, b string) int {
	digits := func(s string) int {
		return len(s) - len(strings.TrimLeft(s, "0123456789"))
	}
	for a != "" && b != "" {
		n, m := digits(a), digits(b)
		if n == 0 || m == 0 {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		x, y := strings.TrimLeft(a[:n], "0"), strings.TrimLeft(b[:m], "0")
		if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
			return c
		}
		a, b = a[n:], b[m:]
	}
	return cmp.Compare(len(a), len(b))
}

// Run copies records until ctx is done, and returns nil. It retries after errors. When the program
// has closed the client or the pool, it ends with an error.
func (r *Relay) Run(ctx context.Context) error {
	if r.queue == nil {
		return fmt.Errorf("%w: the Relay is empty, must come from NewRelay", ErrConfig)
	}
	wake := make(chan struct{}, 1)
	if r.cfg.Signals != nil {
		ended := make(chan struct{})
		defer func() { <-ended }()
		go func() {
			defer close(ended)
			_ = r.cfg.Signals.Listen(ctx, func(s Signal) { // ends with ctx; after an error, polling remains
				if s == SignalPromoted {
					poke(wake)
				}
			})
		}()
	}
	defer r.failed.gone("")
	tick := time.NewTicker(r.cfg.PollInterval)
	defer tick.Stop()
	pause := backoff{}
	var steps closings
	for ctx.Err() == nil {
		_, more, err := r.step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, queue.ErrFull), errors.Is(err, queue.ErrPosition):
			// There is no room now, or another relay of this name has just pushed the page.
		case err != nil:
			r.failed.failed("", err)
			if steps.by(err) {
				return &closedError{err}
			}
			_ = sleep(ctx, pause.next())
			continue
		default:
			r.failed.succeeded("")
			pause, steps = backoff{}, closings{}
			if more {
				continue
			}
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-tick.C:
		}
	}
	return nil
}
