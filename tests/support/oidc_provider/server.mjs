// A strict authorization server that we did not write (oidc-provider), dressed with Keap's paths and API answers.
//
// It demands PKCE (S256), rotates refresh tokens, and a refresh token presented twice kills the whole grant.
// Settings come from the environment; the first line on standard output is its address. It ends when
// standard input ends, so it never outlives the tests.

import { createHash, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';

import Provider from 'oidc-provider';

const TENANT_HOST = 'xy987.infusionsoft.com';
const REFRESH_TOKEN_SECONDS = 45 * 24 * 60 * 60;
const { CLIENT_ID, CLIENT_SECRET, REDIRECT_URI } = process.env;

let accessTokenSeconds = Number(process.env.ACCESS_TOKEN_SECONDS ?? 86399);
const tokenCalls = [];

const configuration = {
  clients: [{
    client_id: CLIENT_ID,
    client_secret: CLIENT_SECRET,
    redirect_uris: [REDIRECT_URI],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    // oidc-provider takes the secret of such a client in the header and in the body alike.
    token_endpoint_auth_method: 'client_secret_basic',
  }],
  scopes: ['openid', 'full'],
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
  expiresWithSession: async () => false,
  ttl: {
    AccessToken: () => accessTokenSeconds,
    AuthorizationCode: 60,
    RefreshToken: REFRESH_TOKEN_SECONDS,
    Grant: REFRESH_TOKEN_SECONDS,
    Session: 3600,
    Interaction: 3600,
    IdToken: 3600,
  },
  findAccount: async (ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  cookies: { keys: [randomBytes(32).toString('hex')] },
  routes: { authorization: '/app/oauth/authorize', token: '/token' },
};

const fault = (faultstring, errorcode) => ({ fault: { faultstring, detail: { errorcode } } });

function person(login) {
  const id = createHash('sha256').update(login).digest().readUInt32BE(0);
  return {
    v1: {
      sub: '1', email: `${login}@example.com`, given_name: login, family_name: 'Example', middle_name: null,
      preferred_name: null, global_user_id: id, infusionsoft_id: `${login}@example.com`, is_admin: true,
    },
    v2: {
      sub: '1', email: `${login}@example.com`, given_name: login, family_name: 'Example',
      id: String(id), keap_id: `${login}@example.com`, is_admin: true,
    },
  };
}

const company = {
  name: 'Independent Example Inc', email: 'office@example.com', website: 'https://example.com', phone: '555-0100',
  time_zone: 'America/New_York', logo_url: null, currency_code: 'USD', language_tag: 'en-US',
  business_type: 'Other', business_goals: [], business_primary_color: null, business_secondary_color: null,
  address: {
    line1: '1 Main Street', line2: null, locality: 'Phoenix', region: 'Arizona', country_code: 'USA',
    postal_code: '85001',
  },
};

const apiAnswers = {
  '/crm/rest/v1/oauth/connect/userinfo': (login) => person(login).v1,
  '/crm/rest/v2/oauth/connect/userinfo': (login) => person(login).v2,
  '/crm/rest/v1/account/profile': () => ({ ...company, phone_ext: null }),
  '/crm/rest/v2/businessProfile': () => company,
};

async function answerAPI(provider, ctx) {
  const [scheme, value] = (ctx.get('authorization') || '').split(' ');
  ctx.status = 401;
  if (scheme.toLowerCase() !== 'bearer' || !value) {
    ctx.body = fault('Invalid access token', 'oauth.v2.InvalidAccessToken');
    return;
  }
  const token = await provider.AccessToken.find(value);
  if (!token) {
    ctx.body = fault('Invalid Access Token', 'keymanagement.service.invalid_access_token');
    return;
  }
  const answer = apiAnswers[ctx.path];
  ctx.set('x-keap-tenant-id', TENANT_HOST);
  ctx.status = answer ? 200 : 404;
  ctx.body = answer ? answer(token.accountId) : { message: 'Not Found' };
}

// What a test may know of a call to the token endpoint: never a secret, only the fingerprint of one.
function tokenCall(ctx) {
  const body = ctx.oidc?.body ?? {};
  const presented = body.refresh_token ?? body.code;
  const methods = [];
  if (/^basic /i.test(ctx.get('authorization'))) methods.push('client_secret_basic');
  if (body.client_secret) methods.push('client_secret_post');
  return {
    grant_type: body.grant_type ?? null,
    auth_method: methods.join('+') || 'none',
    has_code_verifier: Boolean(body.code_verifier),
    has_query: ctx.querystring !== '',
    fingerprint: presented ? createHash('sha256').update(presented).digest('hex').slice(0, 16) : null,
    status: ctx.status,
    error: ctx.body?.error ?? null,
    error_description: ctx.body?.error_description ?? null,
  };
}

async function control(provider, ctx) {
  const wanted = Object.fromEntries(new URLSearchParams(ctx.querystring));
  if (wanted.redirect_uri) {
    const client = await provider.Client.find(CLIENT_ID);
    client.redirectUris = [...new Set([...client.redirectUris, wanted.redirect_uri])];
  }
  if (wanted.access_token_seconds) accessTokenSeconds = Number(wanted.access_token_seconds);
  ctx.status = 204;
}

function dress(provider) {
  provider.use(async (ctx, next) => {
    if (ctx.path.startsWith('/crm/rest/')) {
      await answerAPI(provider, ctx);
    } else if (ctx.path === '/test/token-calls') {
      ctx.body = tokenCalls;
    } else if (ctx.path === '/test/control' && ctx.method === 'POST') {
      await control(provider, ctx);
    } else {
      await next();
      if (ctx.path === '/token') tokenCalls.push(tokenCall(ctx));
      // Its sign-in page would fetch a font from another site.
      if (typeof ctx.body === 'string') ctx.body = ctx.body.replace(/@import url\([^)]*\);/, '');
    }
  });
}

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const address = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(address, configuration);
  dress(provider);
  server.on('request', provider.callback());
  process.stdout.write(`${address}\n`);
});
process.stdin.resume().on('end', () => process.exit(0));
