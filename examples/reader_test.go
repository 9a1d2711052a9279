package examples_test

import (
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/servers/servertest"
)

// redisUser creates a user with the rights that docs/operations.md has for a program.
func redisUser(t *testing.T, redis rueidis.Client, program string) {
	t.Helper()
	guide, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("\nACL SETUSER " + program + " (.*(?:\n  .*)*)").FindSubmatch(guide)
	if m == nil {
		t.Fatalf("docs/operations.md has no ACL line for a %s", program)
	}
	args := append([]string{"ACL", "SETUSER", program}, strings.Fields(string(m[1]))...)
	if err := redis.Do(t.Context(), redis.B().Arbitrary(args...).Build()).Error(); err != nil {
		t.Fatal(err)
	}
}

// as is a URL with another user.
func as(t *testing.T, raw, user, password string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal("unreadable URL")
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

// readers creates a reader in both stores with the documented rights and no others: the ACL line in
// Redis, and the privileges that grants print prints for a role that may not write.
func readers(t *testing.T, s stores, owner cli) cli {
	t.Helper()
	redis, pool := s.redis.Client(t), s.pg.Pool(t)
	redisUser(t, redis, "reader")
	execute(t, pool, "CREATE ROLE reader LOGIN PASSWORD 'secret'; ALTER ROLE reader SET default_transaction_read_only = on; "+
		"REVOKE CREATE, TEMPORARY ON DATABASE postgres FROM PUBLIC; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	printed := owner.ok("grants print reader --role reader")
	if writes := regexp.MustCompile(`INSERT|UPDATE|DELETE|TRUNCATE|OWNER`).FindString(printed); writes != "" {
		t.Errorf("a reader is granted %s:\n%s", writes, printed)
	}
	execute(t, pool, printed)
	return cli{t, env(as(t, s.redis.URL, "reader", "secret"), as(t, s.pg.URL, "reader", "secret"))}
}

// readersRights runs all verbs that only read, and the pages of the console, with the rights of a
// reader. reject is the id of a reject, and record the id of its record.
func readersRights(t *testing.T, s stores, owner cli, reject, record string) {
	t.Helper()
	c := readers(t, s, owner)
	fillWindows(t, s, "orders")
	for _, line := range []string{
		"stats", "stats -json", "stats -window orders", "audit", "audit -window orders", "peek", "peek handed-off", "peek leased", "dead list", "rejects list", "rejects codes", "rejects show " + reject,
		"views list", "lookups list", "schema print", "schema print --companions", "schema check --role reader", "grants print other --role worker",
	} {
		c.ok(line)
	}
	if out := c.ok("find " + record); strings.Count(out, "not looked through") != 1 || !strings.Contains(out, "not looked through: payloads") {
		t.Errorf("a reader's find lacks more than payloads by their ids:\n%s", out)
	}
	c.fails("doctor", "2 of 16 checks failed") // CREATE and TEMPORARY
	c.fails("doctor -window orders", "2 of 17 checks failed")
	for line, want := range map[string]string{"pause": "eval", "rejects resolve " + reject: "reject", "prune -before 1h -yes": "ledger"} {
		if r := run(t, "headrace", c.env, strings.Fields(line)...); r.code != 1 {
			t.Errorf("headrace %s as a reader: exit code %d, want 1 (%s)\n%s%s", line, r.code, want, r.out, r.err)
		}
	}

	p := start(t, "headrace", c.env, "console", "--listen", "127.0.0.1:0", "--window", "orders")
	p.reports("http://127.0.0.1:")
	base := strings.Fields(p.errors.text()[strings.Index(p.errors.text(), "http://"):])[0]
	for _, page := range []string{
		"overview.json", "queue.json", "dead.json", "rejects.json", "rejects.json?id=" + reject, "find.json?id=" + record, "batches.json",
		"tables.json", "tables.json?window=orders", "health.json",
	} {
		var body string
		if !servertest.Eventually(t, page+" as a reader has no warnings", func() bool { // a store may be slower than the page waits
			var status int
			status, body = get(t, base+"p/orders/"+page)
			return status == http.StatusOK && strings.Contains(body, `"warnings": []`)
		}) {
			t.Log(body)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if r := p.wait(); r.code != 0 {
		t.Errorf("console as a reader: exit code %d after Ctrl-C, want 0:\n%s", r.code, r.err)
	}
}
