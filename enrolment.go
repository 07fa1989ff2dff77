package ohrouter

import "time"

// Enrolment is what a proxy sends to get a certificate: the first with a token,
// later ones without, over a connection that proves who it is.
type Enrolment struct {
	Token   string `json:"token,omitempty"` // an enrolment token; good for one use
	Request string `json:"csr"`             // a PKCS #10 request in PEM form; only its key counts
}

// NewInvitation is an enrolment token that has just been made: the only time
// that anybody sees it.
type NewInvitation struct {
	Proxy     string    `json:"proxy"` // whom it makes of whoever has it
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Certificate is the answer to an [Enrolment]: who the proxy is from now on.
type Certificate struct {
	Proxy       string    `json:"proxy"`       // its name
	Certificate string    `json:"certificate"` // in PEM form
	CA          string    `json:"ca"`          // in PEM form: whom the proxy is to trust
	ExpiresAt   time.Time `json:"expires_at"`
}
