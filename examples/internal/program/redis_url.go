package program

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/redis/rueidis"

	"github.com/headrace/headrace/internal/reach"
	"github.com/headrace/headrace/pipeline"
)

// redisOptions reads the URL of a Redis server, with what [rueidis.ParseURL] knows and these
// parameters more. They are called as in the URL of a Postgres database:
//
//	sslrootcert=FILE                  certificates of the authorities that are trusted
//	sslcert=FILE, sslkey=FILE         the client's certificate and its key (mTLS)
//	sentinel_username, sentinel_password
//
// master_set=NAME makes the addresses those of sentinels, and addr=HOST:PORT adds an address of a
// sentinel or of a cluster's node.
func redisOptions(env, raw string) (reach.Server, rueidis.ClientOption, error) {
	at, opt, err := reach.Redis(env, raw)
	if err != nil {
		return at, opt, err
	}
	u, err := url.Parse(raw)
	if err != nil { // reach.Redis has parsed it
		return at, opt, reach.Unreadable(env, "redis://user:password@host:6379/0")
	}
	opt.Dialer = *pipeline.Dialer()
	opt.Dialer.Timeout = AnswerTimeout
	q := u.Query()
	if err := clientTLS(&opt, env, q); err != nil {
		return at, opt, err
	}
	if opt.Sentinel.MasterSet != "" {
		at.Kind = fmt.Sprintf("Redis (master set %s) by way of the sentinels", opt.Sentinel.MasterSet)
		opt.Sentinel.TLSConfig, opt.Sentinel.Dialer = opt.TLSConfig, opt.Dialer
		opt.Sentinel.Username, opt.Sentinel.Password = q.Get("sentinel_username"), q.Get("sentinel_password")
	}
	return at, opt, nil
}

// clientTLS adds the certificates of the parameters. They are read again for each connection: they
// may be renewed while the program runs.
func clientTLS(opt *rueidis.ClientOption, env string, q url.Values) error {
	files := tlsFiles{root: q.Get("sslrootcert"), cert: q.Get("sslcert"), key: q.Get("sslkey")}
	if opt.TLSConfig == nil {
		if files != (tlsFiles{}) {
			return fmt.Errorf("%s has certificates but does not ask for TLS: begin it with rediss://", env)
		}
		return nil
	}
	opt.TLSConfig.ServerName = "" // each address is verified by its own name
	if files == (tlsFiles{}) {
		return nil
	}
	if (files.cert == "") != (files.key == "") {
		return fmt.Errorf("%s: give both sslcert and sslkey", env)
	}
	if err := files.read(opt.TLSConfig); err != nil {
		return fmt.Errorf("%s: %w", env, err)
	}
	opt.DialCtxFn = func(ctx context.Context, address string, d *net.Dialer, c *tls.Config) (net.Conn, error) {
		fresh := c.Clone()
		if files.read(fresh) != nil {
			fresh = c // they are just being replaced: the connection shows whether the old ones are good
		}
		return (&tls.Dialer{NetDialer: d, Config: fresh}).DialContext(ctx, "tcp", address)
	}
	return nil
}

// tlsFiles are files of certificates. The zero value has none.
type tlsFiles struct{ root, cert, key string }

// read reads the files into c.
func (f tlsFiles) read(c *tls.Config) error {
	if f.root != "" {
		pem, err := os.ReadFile(f.root)
		if err != nil {
			return fmt.Errorf("cannot read sslrootcert: %w", fileError(err))
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("sslrootcert: %s holds no certificate in PEM", f.root)
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return fmt.Errorf("cannot use sslcert and sslkey: %s", strings.TrimPrefix(err.Error(), "tls: "))
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return nil
}

// fileError is an error of a file without the operation.
func fileError(err error) error {
	if p := new(os.PathError); errors.As(err, &p) {
		return fmt.Errorf("%s: %w", p.Path, p.Err)
	}
	return err
}
