package proxy

// OfThisMachine is ofThisMachine.
var OfThisMachine = ofThisMachine
