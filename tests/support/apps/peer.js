// An unmodified server of Node: it tells each client who it seems to be, then echoes.
//
// Usage: peer.js listen PORT, or peer.js connect HOST PORT, which tells who is at the other end.
'use strict';
const net = require('node:net');

const peer = (socket) => `${socket.remoteAddress} ${socket.remotePort}`;

function serve(socket) {
  console.log('accepted', peer(socket));
  socket.on('error', (error) => console.log('lost', error.message));
  socket.write(`${peer(socket)}\n`);
  socket.pipe(socket);
}

function connect(host, port) {
  const socket = net.connect(port, host, () => {
    console.log(peer(socket));
    socket.destroy();
  });
}

const [what, ...where] = process.argv.slice(2);
if (what === 'listen') {
  net.createServer(serve).listen(Number(where[0]), () => console.log('listening'));
} else {
  connect(where[0], Number(where[1]));
}
