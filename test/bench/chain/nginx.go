//go:build linux

package chain

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// nginxModules is where Debian's packages put modules that nginx loads.
const nginxModules = "/usr/lib/nginx/modules"

func nginx(tls bool) Chain {
	c := Chain{
		Name: "nginx", needs: []string{"nginx"}, version: []string{"nginx", "-v"},
		Remark: "stream module, 2 workers, reuseport, 64 KiB buffers",
		usable: nginxUsable,
	}
	if tls {
		c.Name, c.TLS, c.Remark = "nginx-tls", true, c.Remark+"; TLS 1.3 between the hops"
	}
	c.start = func(s *site) error {
		module, err := nginxStream()
		if err != nil {
			return err
		}
		return s.pair(tls, func(name string, h hop) error {
			prefix := filepath.Join(h.dir, name)
			if err := os.Mkdir(prefix, 0o700); err != nil {
				return err
			}
			config, err := s.file(name+".conf", nginxConfig(h, module, os.Getuid() == 0))
			if err != nil {
				return err
			}
			return s.run(name, "nginx", "-p", prefix, "-e", "error.log", "-c", config)
		})
	}
	return c
}

func nginxUsable() error {
	_, err := nginxStream()
	return err
}

// nginxStream returns the module to load for mode stream, "" when it is built
// in.
func nginxStream() (string, error) {
	path, err := lookPath("nginx")
	if err != nil {
		return "", err
	}
	out, err := exec.Command(path, "-V").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("nginx -V: %w", err)
	}
	module := filepath.Join(nginxModules, "ngx_stream_module.so")
	if _, err := os.Stat(module); err == nil {
		return module, nil
	}
	if slices.Contains(strings.Fields(string(out)), "--with-stream") {
		return "", nil
	}
	return "", errors.New("nginx has no stream module (libnginx-mod-stream)")
}

func nginxConfig(h hop, module string, root bool) string {
	var b strings.Builder
	if module != "" {
		fmt.Fprintf(&b, "load_module %s;\n", module)
	}
	if root {
		// The workers' memory is read as the user that the benchmark runs as.
		b.WriteString("user root;\n")
	}
	fmt.Fprintf(&b, `daemon off;
worker_processes 2;
worker_rlimit_nofile %d;
pid nginx.pid;
error_log error.log crit;

events {
    worker_connections %d;
}

stream {
    proxy_buffer_size 64k;
    proxy_connect_timeout 5s;
    proxy_timeout 1h;
`, h.descriptors, min(16384, h.descriptors/2))
	listen, proxy := "", ""
	if h.serve != "" {
		listen = " ssl"
		fmt.Fprintf(&b, `    ssl_certificate %s;
    ssl_certificate_key %s;
    ssl_protocols TLSv1.3;
    ssl_session_cache shared:links:10m;
`, h.serve, h.serve)
	}
	if h.expect != "" {
		proxy = fmt.Sprintf(`
        proxy_ssl on;
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_verify on;
        proxy_ssl_trusted_certificate %s;
        proxy_ssl_name %s;`, h.expect, certificateName)
	}
	for _, l := range h.legs {
		fmt.Fprintf(&b, `
    server {
        listen %v reuseport backlog=4096%s;
        proxy_pass %v;%s
    }
`, l.from, listen, l.to, proxy)
	}
	b.WriteString("}\n")
	return b.String()
}
