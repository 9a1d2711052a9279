package program

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
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

// clientTLS adds the certificates of the parameters.
func clientTLS(opt *rueidis.ClientOption, env string, q url.Values) error {
	root, cert, key := q.Get("sslrootcert"), q.Get("sslcert"), q.Get("sslkey")
	if opt.TLSConfig == nil {
		if root+cert+key != "" {
			return fmt.Errorf("%s has certificates but does not ask for TLS: begin it with rediss://", env)
		}
		return nil
	}
	opt.TLSConfig.ServerName = "" // each address is verified by its own name
	if root != "" {
		pem, err := os.ReadFile(root)
		if err != nil {
			return fmt.Errorf("%s: cannot read sslrootcert: %w", env, fileError(err))
		}
		opt.TLSConfig.RootCAs = x509.NewCertPool()
		if !opt.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s: sslrootcert: %s holds no certificate in PEM", env, root)
		}
	}
	if (cert == "") != (key == "") {
		return fmt.Errorf("%s: give both sslcert and sslkey", env)
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("%s: cannot use sslcert and sslkey: %s", env, strings.TrimPrefix(err.Error(), "tls: "))
		}
		opt.TLSConfig.Certificates = []tls.Certificate{pair}
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
