package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// nginx is a running nginx.
type nginx struct {
	addr string // where clients that need no router connect
	told string // where clients have to be told of
	root string // directory that it serves at /
	curl string // path of the client program
}

// nginxConfig serves root at /; at /keep it stores what is posted and answers
// with the file's path; at /endless it sends a file without saying how long it
// is, so that to an HTTP/1.0 client the end of the connection is the end of the file.
// A second address expects the PROXY protocol and answers with what it was told.
const nginxConfig = `
daemon off;
worker_processes 2;
pid %[1]s/pid;
error_log stderr;
events { worker_connections 1024; }
http {
	access_log off;
	default_type application/octet-stream;
	client_body_temp_path %[1]s/bodies;
	proxy_temp_path %[1]s/t1; fastcgi_temp_path %[1]s/t2; uwsgi_temp_path %[1]s/t3; scgi_temp_path %[1]s/t4;
	server {
		listen %[2]s;
		root %[1]s/root;
		location = /stored { return 200; }
		location = /keep {
			client_max_body_size 0;
			client_body_in_file_only on;
			add_header Stored-In $request_body_file;
			proxy_pass http://%[2]s/stored;
			proxy_pass_request_body off;
			proxy_set_header Content-Length "";
		}
		location /endless/ {
			alias %[1]s/root/;
			sub_filter_types *;
			sub_filter "no file has this" "";
		}
	}
	server {
		listen %[3]s proxy_protocol;
		return 200 "$proxy_protocol_addr:$proxy_protocol_port at $proxy_protocol_server_addr:$proxy_protocol_server_port";
	}
}
`

// startNginx runs a server with files of its own.
func startNginx(t testing.TB) *nginx {
	t.Helper()
	const account = "www-data"
	daemon := need(t, "nginx")
	n := &nginx{curl: need(t, "curl")}
	dir := dataDir(t, account)
	n.root = filepath.Join(dir, "root")
	if err := os.Mkdir(n.root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.root, "index.html"), []byte("<h1>It works</h1>\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "nginx.conf")
	n.told = loopback(ports.take(t, 1))
	_, port := serve(t, program{
		name: "nginx",
		command: func(port int) *exec.Cmd {
			text := fmt.Sprintf(nginxConfig, dir, loopback(port), n.told)
			if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(daemon, "-e", "stderr", "-p", dir, "-c", config)
			runAs(t, cmd, account)
			return cmd
		},
		ready: func(ctx context.Context, port int) error {
			_, err := call(ctx, http.MethodGet, "http://"+loopback(port)+"/")
			return err
		},
		stop: syscall.SIGTERM,
	})
	n.addr = loopback(port)
	return n
}

// get returns a curl that fails when the server does, with more arguments.
func (n *nginx) get(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, n.curl, append([]string{"-q", "-sS", "--fail", "--noproxy", "*"}, args...)...)
}
