package reach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

const secret = "s3cr3t-w0rd"

func TestExplainNamesTheProblemAndTheFix(t *testing.T) {
	t.Parallel()
	pg, _, err := Postgres("DATABASE_URL", "postgres://me:"+secret+"@db.example:5433/shop")
	if err != nil {
		t.Fatal(err)
	}
	redis, _, err := Redis("REDIS_URL", "redis://me:"+secret+"@cache.example:6380/3")
	if err != nil {
		t.Fatal(err)
	}
	unnamed, _, err := Postgres("DATABASE_URL", "postgres://me:"+secret+"@db.example")
	if err != nil {
		t.Fatal(err)
	}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for _, c := range []struct {
		server Server
		err    error
		want   []string
	}{
		{pg, &pgconn.PgError{Code: "28P01", Message: "password authentication failed"}, []string{`refuses the user "me" or the password`, "correct DATABASE_URL"}},
		{pg, &pgconn.PgError{Code: "3D000", Message: "no such database"}, []string{"createdb shop", "DATABASE_URL"}},
		{pg, &pgconn.PgError{Code: "53300", Message: "too many clients"}, []string{"no connection left"}},
		{pg, &pgconn.PgError{Code: "57P03", Message: "the database system is starting up"}, []string{"is starting up"}},
		{pg, &pgconn.PgError{Code: "XX000", Message: "two\nlines"}, []string{"refuses the connection", "two lines, SQLSTATE XX000"}},
		{pg, errors.New("server refused TLS connection"), []string{"TLS", "sslmode"}},
		{pg, errors.Join(&pgconn.PgError{Code: "42704", Message: `unrecognized configuration parameter "sslmod"`}, errors.New("server refused TLS connection")), []string{"does not know a parameter", `"sslmod"`}},
		{unnamed, &pgconn.PgError{Code: "3D000", Message: "no such database"}, []string{"database me does not have", "createdb me"}},
		{pg, fmt.Errorf("first\n\tsecond: %w", refused), []string{"does not answer", "start it or correct DATABASE_URL"}},
		{pg, errors.New("ValidateConnect failed: connection is not read only"), []string{"target_session_attrs"}},
		{redis, refused, []string{"Redis at cache.example:6380, database 3", "does not answer", "start it or correct REDIS_URL"}},
		{redis, &net.DNSError{Err: "no such host", Name: "cache.example"}, []string{"host name is unknown", "correct REDIS_URL"}},
	} {
		got := c.server.Explain(c.err).Error()
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%v: got %q, want it to contain %q", c.err, got, want)
			}
		}
		if strings.Contains(got, secret) || strings.Contains(got, "\n") {
			t.Errorf("%v: got %q, want one line without the password", c.err, got)
		}
	}
}

func TestUnreadableURLsAreNotRepeated(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"://me:" + secret + "@host/1", "redis://me:" + secret + "@host:port:6379/x", "postgres://me:" + secret + "@host:port/x y",
		"me:" + secret + "@host", "redis://me:" + secret + "%zz@host/0",
		"postgres://me:first@" + secret + "@host/shop", "postgres://me:12/" + secret + "@host/shop", "postgres://me:12?" + secret + "@host/shop",
		"postgres://me:12#" + secret + "@host/shop", "postgres://me:" + secret + "@host:port/shop",
	} {
		if _, _, err := Redis("REDIS_URL", bad); err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "REDIS_URL") {
			t.Errorf("Redis: got %v, want an error that names REDIS_URL without the password", err)
		}
		if _, _, err := Postgres("DATABASE_URL", bad); err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "DATABASE_URL") {
			t.Errorf("Postgres: got %v, want an error that names DATABASE_URL without the password", err)
		}
	}
}

// What cannot be used without being a fault of the URL's form has the reason.
func TestReasonsThatAreNotTheForm(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"postgres://me:" + secret + "@host/shop?service=none&servicefile=/nowhere":             "failed to read service",
		"postgres://me:" + secret + "@host/shop?sslmode=bogus":                                 "sslmode is invalid",
		"postgres://me:" + secret + "@host/shop?sslmode=verify-full&sslrootcert=/nowhere":      "open /nowhere",
		"host=a,b port=1,2,3 user=me password=" + secret:                                       "3 port numbers to 2 hosts",
		"postgres://me:" + secret + "@host/shop?connect_timeout=soon":                          "invalid connect_timeout",
		"postgres://me:" + secret + "@host/shop?application_name=a@b&sslmode=disable":          "",
		"postgres://host/shop?application_name=a@b&sslmode=disable&user=me&password=" + secret: "",
		"host=/run/postgresql user=me application_name=a@b password=" + secret:                 "",
	} {
		_, _, err := Postgres("DATABASE_URL", url)
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) || want != "" && !strings.Contains(got, "cannot use DATABASE_URL") || strings.Contains(got, secret) {
			t.Errorf("got %q, want %q without the password", got, want)
		}
	}
}

func TestAwaitReportsTheWaitOnceAndItsEnd(t *testing.T) {
	t.Parallel()
	starting := &pgconn.PgError{Code: "57P03"}
	var events []string
	await := func(ctx context.Context, results ...error) error {
		events = nil
		return Await(ctx, func(context.Context) error {
			events = append(events, "try")
			err := results[0]
			results = append(results[1:], results[0])
			return err
		}, Starting, func(err error) { events = append(events, "waiting") }, func() { events = append(events, "ready") })
	}
	for _, c := range []struct {
		results []error
		want    string
	}{
		{[]error{nil}, "try"},
		{[]error{starting, fmt.Errorf("wrapped: %w", starting), nil}, "try waiting try try ready"},
		{[]error{starting, errors.New("another error")}, "try waiting try"},
	} {
		last := c.results[len(c.results)-1]
		if err := await(t.Context(), c.results...); !errors.Is(err, last) {
			t.Errorf("%v: got error %v", c.results, err)
		}
		if got := strings.Join(events, " "); got != c.want {
			t.Errorf("%v: got %q, want %q", c.results, got, c.want)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("interrupted")
	cancel(why)
	if err := await(ctx, starting); !errors.Is(err, why) {
		t.Errorf("with a context that has ended: got %v, want %v", err, why)
	}
}
