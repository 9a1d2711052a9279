package pipeline

import (
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Limits of the connections that [Dialer] and [TunePool] set up.
const (
	dialTimeout = 5 * time.Second
	peerTimeout = 10 * time.Second // for bytes that the peer does not acknowledge
	pingTimeout = 2 * time.Second  // for a pooled connection that was idle
)

// Dialer returns a dialer whose connections notice a peer that has vanished within about 10 s: a
// timeout for the dial, keepalive probes on an idle connection, and on Linux TCP_USER_TIMEOUT for
// bytes that are not acknowledged. Without it the kernel retries for 15 minutes. It also dials Unix
// sockets, which need none of this. It suits both stores:
//
//	option.Dialer = *pipeline.Dialer()                 // rueidis.ClientOption
//	config.ConnConfig.DialFunc = pipeline.Dialer().DialContext // pgxpool.Config, see TunePool
//
// It does not notice a peer whose kernel acknowledges but whose program never answers. Workers and
// promoters abandon such a connection after their CallTimeout.
func Dialer() *net.Dialer {
	return &net.Dialer{
		Timeout:         dialTimeout,
		KeepAlive:       time.Second, // rueidis pings at this interval
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 3 * time.Second, Interval: time.Second, Count: 5},
		Control: func(network, _ string, c syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil // a Unix socket has no such option, and no peer that vanishes
			}
			var err error
			if cerr := c.Control(func(fd uintptr) { err = setUserTimeout(fd, peerTimeout) }); cerr != nil {
				return cerr
			}
			return err
		},
	}
}

// TunePool sets up a pool for the programs of a pipeline: it sets [Dialer], a timeout for new
// connections, and a timeout for the ping with which the pool checks an idle connection. Without
// the last, each dead connection in a pool costs a whole CallTimeout. It changes only settings that
// are not set.
func TunePool(config *pgxpool.Config) {
	if config == nil || config.ConnConfig == nil {
		return // pgxpool panics on such a Config, and names the reason
	}
	config.ConnConfig.DialFunc = Dialer().DialContext
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = dialTimeout
	}
	if config.PingTimeout == 0 {
		config.PingTimeout = pingTimeout
	}
}
