// Greets a port of this host once for each line of its input: a server's name, or "-" for none.
package main

import (
	"bufio"
	"crypto/tls"
	"math/rand"
	"net"
	"os"
	"strings"
	"time"
)

var curves = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}

func configuration(name string) *tls.Config {
	config := &tls.Config{InsecureSkipVerify: true, ServerName: name, MinVersion: tls.VersionTLS12}
	if rand.Intn(4) == 0 {
		config.MaxVersion = tls.VersionTLS12
	} else if rand.Intn(3) == 0 {
		config.MinVersion = tls.VersionTLS13
	}
	if rand.Intn(2) == 0 {
		rand.Shuffle(len(curves), func(i, j int) { curves[i], curves[j] = curves[j], curves[i] })
		config.CurvePreferences = append([]tls.CurveID(nil), curves[:1+rand.Intn(len(curves))]...)
	}
	for count := rand.Intn(9); count > 0; count-- {
		config.NextProtos = append(config.NextProtos, strings.Repeat("p", 1+rand.Intn(255)))
	}
	if rand.Intn(3) == 0 {
		for _, suite := range tls.CipherSuites()[:4+rand.Intn(6)] {
			config.CipherSuites = append(config.CipherSuites, suite.ID)
		}
	}
	config.SessionTicketsDisabled = rand.Intn(3) == 0
	config.Renegotiation = tls.RenegotiationSupport(rand.Intn(3))
	return config
}

func main() {
	rand.Seed(time.Now().UnixNano())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		name := strings.TrimPrefix(lines.Text(), "-")
		connection, err := net.Dial("tcp", "127.0.0.1:"+os.Args[1])
		if err != nil {
			panic(err)
		}
		// Nobody answers.
		_ = tls.Client(connection, configuration(name)).Handshake()
		connection.Close()
	}
}
