// A reverse proxy on the Go standard library's ReverseProxy, to compare with: go-peer PORT BACKEND BACKEND...
// GOMAXPROCS sets its threads. It balances in turn over pooled connections; ReverseProxy adds X-Forwarded-For itself.
package main

import (
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"os"
	"sync/atomic"
	"time"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: go-peer PORT BACKEND BACKEND...")
	}
	backends := os.Args[2:]
	var turn uint64
	proxy := &httputil.ReverseProxy{
		Director: func(request *http.Request) {
			request.URL.Scheme = "http"
			request.URL.Host = "127.0.0.1:" + backends[atomic.AddUint64(&turn, 1)%uint64(len(backends))]
		},
		Transport: &http.Transport{
			MaxIdleConns:        0,
			MaxIdleConnsPerHost: 8192,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], proxy))
}
