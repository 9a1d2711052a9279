package examples_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
)

// authority issues certificates. Files of them are in dir.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	mu       sync.Mutex
	open     []net.Conn     // through a front
	accepted map[string]int // handshakes since cut, by address of the front
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir(), accepted: map[string]int{}}
	a.renew()
	return a
}

// renew makes a new certificate of the authority, and one of a server and a client.
func (a *authority) renew() {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cert = nil
	a.cert, a.key = a.issue("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.issue("server", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	a.issue("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// server is the configuration of a front, with the present certificates.
func (a *authority) server() (*tls.Config, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	pair, err := tls.LoadX509KeyPair(a.file("server.pem"), a.file("server.key"))
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}, err
}

// entered notes a handshake with the front at an address.
func (a *authority) entered(address string, c net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open = append(a.open, c)
	a.accepted[address]++
}

// cut closes the connections through all fronts.
func (a *authority) cut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.open {
		_ = c.Close()
	}
	a.open, a.accepted = nil, map[string]int{}
}

// handshakes returns how many clients have come to the front at an address since cut.
func (a *authority) handshakes(address string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.accepted[address]
}

// issue signs a certificate, and writes name.pem and name.key.
func (a *authority) issue(name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return signed, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// front puts TLS in front of the server of a URL, and asks clients for a certificate. It returns
// the address. hello, if set, speaks before TLS begins.
func (a *authority) front(raw string, hello func(net.Conn) error) string {
	a.t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		a.t.Fatal("unreadable URL")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close() //nolint:errcheck // the client sees it
				if hello != nil && hello(c) != nil {
					return
				}
				cfg, err := a.server()
				if err != nil {
					return
				}
				client := tls.Server(c, cfg)
				if client.Handshake() != nil {
					return
				}
				a.entered(l.Addr().String(), c)
				server, err := net.Dial("tcp", u.Host)
				if err != nil {
					return
				}
				defer server.Close() //nolint:errcheck // the client sees it
				go func() { _, _ = io.Copy(server, client); _ = server.Close() }()
				_, _ = io.Copy(client, server)
			}()
		}
	}()
	return l.Addr().String()
}

// The URLs of both stores take certificates, and a program without the right ones prints one line
// that names the problem.
func TestTLS(t *testing.T) {
	t.Parallel()
	s := own(t)
	a := newAuthority(t)
	stranger := newAuthority(t)
	redisAt := a.front(s.redis.URL, nil)
	pgAt := a.front(s.pg.URL, func(c net.Conn) error {
		if _, err := io.ReadFull(c, make([]byte, 8)); err != nil { // SSLRequest
			return err
		}
		_, err := c.Write([]byte{'S'})
		return err
	})
	// at is a URL that leads through TLS, with parameters.
	at := func(raw, scheme, host string, parameters ...string) string {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal("unreadable URL")
		}
		u.Scheme, u.Host = scheme, host
		q := url.Values{}
		for i := 0; i < len(parameters); i += 2 {
			q.Set(parameters[i], parameters[i+1])
		}
		u.RawQuery = q.Encode()
		return u.String()
	}
	root, cert, key := []string{"sslrootcert", a.file("ca.pem")}, []string{"sslcert", a.file("client.pem")}, []string{"sslkey", a.file("client.key")}
	all := slices.Concat(root, cert, key)
	redis := at(s.redis.URL, "rediss", redisAt, all...)
	pg := at(s.pg.URL, "postgres", pgAt, slices.Concat(all, []string{"sslmode", "verify-full"})...)

	if r := run(t, "producer", env(redis, ""), "-orders", "100"); r.code != 0 {
		t.Errorf("producer over TLS: exit code %d\n%s", r.code, r.err)
	}
	if r := run(t, "headrace", env(redis, pg), "process", "-empty"); r.code != 0 || !strings.Contains(r.out, "processed 100 records") {
		t.Errorf("a worker over TLS: exit code %d\n%s%s", r.code, r.out, r.err)
	}
	for name, c := range map[string]struct{ redis, pg, want string }{
		"another authority":     {redis: at(s.redis.URL, "rediss", redisAt, slices.Concat([]string{"sslrootcert", stranger.file("ca.pem")}, cert, key)...), want: "do not agree on TLS"},
		"no client certificate": {redis: at(s.redis.URL, "rediss", redisAt, root...), want: "do not agree on TLS"},
		"no TLS":                {redis: at(s.redis.URL, "redis", redisAt), want: "Redis at"},
		"certificates, no TLS":  {redis: at(s.redis.URL, "redis", redisAt, root...), want: "begin it with rediss://"},
		"no such file":          {redis: at(s.redis.URL, "rediss", redisAt, "sslrootcert", "/nowhere.pem"), want: "/nowhere.pem: no such file"},
		"no certificate":        {redis: at(s.redis.URL, "rediss", redisAt, "sslrootcert", a.file("ca.key")), want: "holds no certificate"},
		"no key":                {redis: at(s.redis.URL, "rediss", redisAt, slices.Concat(root, cert)...), want: "give both sslcert and sslkey"},
		"another's key":         {redis: at(s.redis.URL, "rediss", redisAt, slices.Concat(root, cert, []string{"sslkey", a.file("server.key")})...), want: "cannot use sslcert and sslkey"},
		"Postgres, authority":   {redis: redis, pg: at(s.pg.URL, "postgres", pgAt, slices.Concat([]string{"sslrootcert", stranger.file("ca.pem")}, cert, key, []string{"sslmode", "verify-full"})...), want: "do not agree on TLS"},
	} {
		verb := "stats"
		if c.pg == "" {
			verb = "peek" // needs no Postgres
		}
		r := run(t, "headrace", env(c.redis, c.pg), verb)
		if r.code != 1 || !strings.Contains(r.err, c.want) || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%s: exit code %d, %q; want 1 and one line with %q", name, r.code, r.err, c.want)
		}
	}

	// A running program takes renewed certificates, also of another authority.
	worker := start(t, "worker", env(redis, pg))
	client := s.redis.Client(t)
	push := func(seed string) {
		t.Helper()
		if r := run(t, "producer", env(s.redis.URL, ""), "-orders", "10", "-seed", seed); r.code != 0 {
			t.Errorf("producer: exit code %d\n%s", r.code, r.err)
		}
	}
	push("2")
	servertest.Eventually(t, "the worker has leased them", func() bool {
		n, err := client.Do(t.Context(), client.B().Llen().Key("{orders}:ready").Build()).AsInt64()
		return err == nil && n == 0
	})
	a.renew()
	a.cut()
	push("3")
	servertest.Eventually(t, "the worker is back with the renewed certificates", func() bool { return a.handshakes(redisAt) > 0 && a.handshakes(pgAt) > 0 })
	_ = worker.cmd.Process.Signal(syscall.SIGTERM) // wait reports what is wrong
	worker.wait()
}

// libpq's variables name the database, and flags go before variables.
func TestFlagsAndVariablesNameTheStores(t *testing.T) {
	t.Parallel()
	s := own(t)
	u, err := url.Parse(s.pg.URL)
	if err != nil {
		t.Fatal("unreadable URL")
	}
	password, _ := u.User.Password()
	vars := []string{"REDIS_URL=" + s.redis.URL, "PGHOST=" + u.Hostname(), "PGPORT=" + u.Port(), "PGUSER=" + u.User.Username(), "PGPASSWORD=" + password,
		"PGDATABASE=" + strings.TrimPrefix(u.Path, "/"), "PGSSLMODE=disable"}
	unnamed := slices.DeleteFunc(slices.Clone(vars), func(v string) bool { return strings.HasPrefix(v, "PGDATABASE=") })
	cli{t, unnamed}.fails("rejects codes", "the database "+u.User.Username()+" has no table orders")
	if r := run(t, "stats", vars); r.code != 0 {
		t.Errorf("with the PG variables: exit code %d\n%s", r.code, r.err)
	}
	r := run(t, "stats", append(vars, "PGPASSWORD=s3cr3t"))
	if r.code != 1 || !strings.Contains(r.err, "correct the PG variables") || strings.Contains(r.err, "s3cr3t") {
		t.Errorf("with a wrong PGPASSWORD: exit code %d, %q", r.code, r.err)
	}
	wrong := env("redis://127.0.0.1:1", "postgres://someone@127.0.0.1:1/none")
	for _, program := range []string{"stats", "headrace"} {
		args := []string{"-redis", s.redis.URL, "-postgres", s.pg.URL}
		if program == "headrace" {
			args = append(args, "stats")
		}
		if r := run(t, program, wrong, args...); r.code != 0 {
			t.Errorf("%s with flags and wrong variables: exit code %d\n%s", program, r.code, r.err)
		}
	}
	for variable, want := range map[string]string{"HEADRACE_BATCH=0": "HEADRACE_BATCH is \"0\", must be a whole number from 1 to 100000", "HEADRACE_WORKERS=many": "HEADRACE_WORKERS is"} {
		if r := run(t, "worker", []string{variable}); r.code != 2 || !strings.Contains(r.err, want) || strings.Count(r.err, "\n") != 1 {
			t.Errorf("worker with %s: exit code %d, %q; want 2 and %q", variable, r.code, r.err, want)
		}
	}
	// The same variables, with the same texts, and an empty one is not set.
	same := []string{"HEADRACE_REDIS=" + s.redis.URL, "HEADRACE_POSTGRES=" + s.pg.URL, "HEADRACE_LEASE=5", "HEADRACE_WORKERS=", "HEADRACE_QUEUE=", "HEADRACE_JSON="}
	cli{t, append(same, wrong...)}.shows("process --empty", "processed 0 records")
	if r := run(t, "headrace", []string{"HEADRACE_BATCH=0"}, "process"); r.code != 2 || !strings.Contains(r.err, "--batch is 0") {
		t.Errorf("headrace process with HEADRACE_BATCH=0: exit code %d, %q", r.code, r.err)
	}
}

// The same programs run on a cluster, from the address of one node.
func TestOnACluster(t *testing.T) {
	t.Parallel()
	servertest.EachCluster(t, func(t *testing.T, cl *servertest.Cluster) {
		pg := servertest.OwnPostgres(t) // the books of two clusters do not belong in one
		nodes := cl.Client.Nodes()
		addresses := make([]string, 0, len(nodes))
		for a := range nodes {
			addresses = append(addresses, a)
		}
		slices.Sort(addresses)
		c := cli{t, env("redis://:cluster@"+addresses[0]+"?addr="+addresses[1], pg.URL)}
		c.shows("generate -orders 500 -duplicates 0 -bad 0", "pushed 500 records")
		c.shows("process -empty", "processed 500 records")
		c.shows("promote -empty", "promoted 500 records")
		c.shows("audit", "✓ Redis")
	})
}

// A worker and a promoter run on the printed schema, as roles that have the printed privileges and
// no others, and as Redis users that have the documented rights and no others.
func TestPrintedGrantsAreEnough(t *testing.T) {
	t.Parallel()
	s := own(t)
	c := cli{t, s.env()}
	c.fails("schema check", "the table orders is missing")
	c.fails("grants print app", "orders")
	pool := s.pg.Pool(t)
	execute(t, pool, c.ok("schema print"))
	c.fails("schema check", "orders_ledger")
	execute(t, pool, c.ok("schema print --companions"))
	c.shows("schema check", "is as this program expects it")
	c.ok("init-cache") // the reference data
	u, err := url.Parse(s.pg.URL)
	if err != nil {
		t.Fatal("unreadable URL")
	}
	execute(t, pool, "REVOKE CREATE ON SCHEMA public FROM PUBLIC; REVOKE CREATE, TEMPORARY ON DATABASE postgres FROM PUBLIC")
	redis := s.redis.Client(t)
	role := func(role, redisURL string) []string {
		execute(t, pool, "CREATE ROLE "+role+" LOGIN PASSWORD 'app'")
		u.User = url.UserPassword(role, "app")
		return env(redisURL, u.String())
	}
	user := func(program string) string {
		redisUser(t, redis, program)
		return as(t, s.redis.URL, program, "secret")
	}
	bare := role("without_rights", s.redis.URL)
	if r := run(t, "worker", bare, "-no-create"); r.code != 1 || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, "without_rights") {
		t.Errorf("a role without rights: exit code %d, %q; want 1 and one line with the role", r.code, r.err)
	}
	worker, promoter := role("app_worker", user("worker")), role("app_promoter", user("promoter"))
	execute(t, pool, c.ok("grants print app_worker --role worker"))
	execute(t, pool, c.ok("grants print app_promoter --role promoter"))
	if r := run(t, "producer", env(user("producer"), s.pg.URL), "-orders", "200", "-duplicates", "0.1", "-bad", "0.1"); r.code != 0 {
		t.Errorf("producer: exit code %d\n%s", r.code, r.err)
	}
	running := []*process{start(t, "worker", worker, "-no-create"), start(t, "promoter", promoter, "-no-create")}
	eventually(t, "200 records are acknowledged", func() bool {
		for _, p := range running {
			select {
			case <-p.exited:
				t.Fatalf("%v ended: %s", p.cmd.Args, p.errors.text())
			default:
			}
		}
		return strings.Join(text(t, redis, "HMGET", "{orders}:queue:stat", "acked"), "") == "200"
	})
	for _, p := range running {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if r := p.wait(); r.code != 0 {
			t.Errorf("%v after SIGTERM: exit code %d\n%s", p.cmd.Args, r.code, r.err)
		}
	}
	c.shows("schema check", "is as this program expects it")
	execute(t, pool, "DROP TABLE orders_registry_a CASCADE")
	c.fails("schema check", "orders_registry_a")
}

// sentinel starts a Redis Sentinel that watches the server of a URL as "mymaster". It returns its
// address.
func sentinel(t *testing.T, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal("unreadable URL")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	_, port, _ := net.SplitHostPort(at)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	conf := "bind 127.0.0.1\nport " + port + "\nsentinel monitor mymaster " + u.Hostname() + " " + u.Port() + " 1\nsentinel auth-pass mymaster " + password + "\n"
	var cmd *exec.Cmd
	if server, err := exec.LookPath("redis-server"); err == nil {
		file := filepath.Join(t.TempDir(), "sentinel.conf")
		if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd = exec.Command(server, file, "--sentinel")
	} else {
		cmd = exec.Command("docker", "run", "--rm", "--network", "host", "-e", "CONF="+conf, "--entrypoint", "sh", "redis:8", "-c",
			`printf %s "$CONF" >/tmp/sentinel.conf && exec redis-server /tmp/sentinel.conf --sentinel`)
	}
	out := newLines()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // the docker command passes it on
		_ = cmd.Wait()
	})
	if !out.await("+monitor master mymaster", nil) {
		t.Fatalf("no sentinel:\n%s", out.text())
	}
	return at
}

// With sentinels, the URL names them and the master set.
func TestBehindASentinel(t *testing.T) {
	t.Parallel()
	redis := servertest.OwnRedis(t)
	u, err := url.Parse(redis.URL)
	if err != nil {
		t.Fatal("unreadable URL")
	}
	u.Host, u.RawQuery = sentinel(t, redis.URL), "master_set=mymaster"
	c := cli{t, env(u.String(), "")}
	c.shows("generate -orders 100", "pushed 100 records")
	c.shows("peek -n 1", "order_id")
	u.RawQuery = "master_set=another"
	r := run(t, "headrace", env(u.String(), ""), "peek")
	if r.code != 1 || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, "master set another") {
		t.Errorf("an unknown master set: exit code %d, %q; want 1 and one line with its name", r.code, r.err)
	}
}
